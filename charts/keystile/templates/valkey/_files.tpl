{{/* What the Valkey pod reads at its start. Argument: the chart's context. */}}
{{- define "keystile.valkey.files" -}}
valkey.conf: |
  dir /data
  # Every write reaches the disk within a second, and a restart reads them all back.
  appendonly yes
  appendfsync everysec
  # The append-only file holds everything; snapshots beside it would write it twice.
  save ""
  # An evicted key would undo a revocation or let a code be used twice: the services refuse any other policy.
  maxmemory {{ .Values.auth.store.valkey.maxmemory }}
  maxmemory-policy noeviction
start.sh: |
  # The password reaches the server as a hash on its standard input: not in a ConfigMap, not on a command line.
  # Kept for the probes as it is now: a Secret that is changed shows in the mounted file before the server has it.
  (umask 077 && tr -d '\r\n' < /var/run/secrets/valkey/password > /tmp/password)
  hash=$(sha256sum < /tmp/password | cut -d ' ' -f 1)
  exec valkey-server - <<SETTINGS
  $(cat /etc/valkey/valkey.conf)
  user default on sanitize-payload resetpass #$hash ~* &* +@all
  SETTINGS
ping.sh: |
  # The password stays in this process's environment; an argument would be seen by the whole node.
  REDISCLI_AUTH=$(cat /tmp/password) && export REDISCLI_AUTH
  answer=$(valkey-cli -h 127.0.0.1 ping 2>&1)
  case "$1 $answer" in
    *" PONG") ;;
    # Alive while it reads its file or runs a script, but not yet, or not now, of use.
    live\ LOADING*|live\ BUSY*|live\ MASTERDOWN*) ;;
    *) echo "$answer"; exit 1 ;;
  esac
{{- end }}
