{{/* What every pod of the authorization server's image reads: its settings, its secrets, what it needs for the store. */}}

{{/* Argument: the chart's context. */}}
{{- define "keystile.auth.mounts" -}}
- name: settings
  mountPath: /etc/keystile/settings
  readOnly: true
- name: secrets
  mountPath: /var/run/secrets/keystile
  readOnly: true
{{- if (include "keystile.store" . | fromYaml).ca }}
- name: store-ca
  mountPath: /etc/keystile/store-ca
  readOnly: true
{{- end }}
{{- if .Values.auth.store.clientCertificate.secret }}
- name: store-certificate
  mountPath: /etc/keystile/store-certificate
  readOnly: true
{{- end }}
{{- with include "keystile.auditMount" . | trim }}
{{ . }}
{{- end }}
- name: tmp
  mountPath: /tmp
{{- end }}

{{/* Argument: dict root, model. */}}
{{- define "keystile.auth.volumes" -}}
{{- $root := .root -}}
{{- $auth := $root.Values.auth -}}
{{- $secretKeys := dict "master_key" "master-key" -}}
{{- with $auth.store.passwordKey }}{{- $_ := set $secretKeys "store__password" . -}}{{- end -}}
{{- with $auth.store.sentinelPasswordKey }}{{- $_ := set $secretKeys "store__sentinel_password" . -}}{{- end -}}
{{- range $name, $server := .model.servers -}}
{{- if $server.secretKey -}}
{{- $_ := set $secretKeys (printf "resources__%s__secret" $name) $server.secretKey -}}
{{- end -}}
{{- end -}}
{{- range $name, $client := $auth.clients -}}
{{- with $client.secretKey }}{{- $_ := set $secretKeys (printf "clients__%s__secret" $name) . -}}{{- end -}}
{{- end -}}
- name: settings
  configMap:
    name: {{ .model.auth.name }}
- name: secrets
  secret:
    secretName: {{ $root.Values.existingSecret }}
    defaultMode: 0440
    # A file is a setting by its name; other keys of the Secret stay out.
    items:
      {{- range $file, $key := $secretKeys }}
      - {key: {{ $key }}, path: {{ $file }}}
      {{- end }}
{{- with .model.store.ca }}
{{ include "keystile.ca.volume" (dict "name" "store-ca" "ca" .) }}
{{- end }}
{{- with $auth.store.clientCertificate.secret }}
- name: store-certificate
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
{{- end }}
{{- with include "keystile.auditVolumes" $root | trim }}
{{ . }}
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- end }}
