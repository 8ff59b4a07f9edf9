{{/* Something if MCP servers keep their sessions in this Valkey. Argument: the chart's context. */}}
{{- define "keystile.valkey.hasSessions" -}}
{{- $model := include "keystile.model" . | fromYaml -}}
{{- if $model.sessionStore.own }}{{ include "keystile.sharesSessions" $model }}{{ end -}}
{{- end }}

{{/* What the Valkey pod reads at its start. Argument: the chart's context. */}}
{{- define "keystile.valkey.files" -}}
{{- $sessions := include "keystile.valkey.hasSessions" . -}}
{{- $tls := .Values.network.tls.valkeySecret -}}
valkey.conf: |
  dir /data
  {{- $fsync := eq (dig "store" "durability" "memory" .Values.auth.settings) "fsync" }}
  # Every write reaches the disk {{ $fsync | ternary "before it is answered" "within a second" }}, and a restart reads them all back.
  appendonly yes
  appendfsync {{ $fsync | ternary "always" "everysec" }}
  # The append-only file holds everything; snapshots beside it would write it twice.
  save ""
  # An evicted key would undo a revocation or let a code be used twice: the services refuse any other policy.
  maxmemory {{ .Values.auth.store.valkey.maxmemory }}
  maxmemory-policy noeviction
  {{- if $tls }}
  # TLS and nothing else; clients prove themselves by the password.
  port 0
  tls-port 6379
  tls-cert-file /var/run/secrets/valkey-tls/tls.crt
  tls-key-file /var/run/secrets/valkey-tls/tls.key
  tls-auth-clients no
  tls-protocols "TLSv1.2 TLSv1.3"
  {{- end }}
start.sh: |
  # The password reaches the server as a hash on its standard input: not in a ConfigMap, not on a command line.
  # Kept for the probes as it is now: a Secret that is changed shows in the mounted file before the server has it.
  (umask 077 && tr -d '\r\n' < /var/run/secrets/valkey/password > /tmp/password)
  hash=$(sha256sum < /tmp/password | cut -d ' ' -f 1)
  {{- if $tls }}
  cat /var/run/secrets/valkey-tls/tls.crt /var/run/secrets/valkey-tls/tls.key | sha256sum > /tmp/certificate
  {{- end }}
  {{- if $sessions }}
  sessions=$(tr -d '\r\n' < /var/run/secrets/valkey/sessions-password | sha256sum | cut -d ' ' -f 1)
  {{- end }}
  exec valkey-server - <<SETTINGS
  $(cat /etc/valkey/valkey.conf)
  user default on sanitize-payload resetpass #$hash ~* &* +@all
  {{- if $sessions }}
  user mcp on sanitize-payload resetpass #$sessions ~km:* +get +set +expire +del +xadd +xrange +xread +ping +hello +auth +select +client|setinfo
  {{- end }}
  SETTINGS
ping.sh: |
  # The password stays in this process's environment; an argument would be seen by the whole node.
  REDISCLI_AUTH=$(cat /tmp/password) && export REDISCLI_AUTH
  {{- if $tls }}
  # Whose certificate it is need not be asked on the way to the pod itself; an expired one must not hold its successor up.
  ask() { valkey-cli --tls --insecure -h 127.0.0.1 "$@" 2>&1; }
  # A running server reads a renewed certificate when it is told to, and keeps the old one if it cannot use the new one.
  seen=$(cat /var/run/secrets/valkey-tls/tls.crt /var/run/secrets/valkey-tls/tls.key | sha256sum)
  if [ "$1" = ready ] && [ "$seen" != "$(cat /tmp/certificate)" ]; then
    answer=$(ask config set tls-cert-file /var/run/secrets/valkey-tls/tls.crt tls-key-file /var/run/secrets/valkey-tls/tls.key)
    echo "$seen" > /tmp/certificate
    echo "renewed certificate: $answer" > /proc/1/fd/2
  fi
  {{- else }}
  ask() { valkey-cli -h 127.0.0.1 "$@" 2>&1; }
  {{- end }}
  answer=$(ask ping)
  case "$1 $answer" in
    *" PONG") ;;
    # Alive while it reads its file or runs a script, but not yet, or not now, of use.
    live\ LOADING*|live\ BUSY*|live\ MASTERDOWN*) ;;
    *) echo "$answer"; exit 1 ;;
  esac
{{- end }}
