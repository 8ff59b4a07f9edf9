{{/* TLS between the pods of a release, with certificates from Secrets that somebody else makes and renews. */}}

{{/* The Secret with the certificate of one component, or nothing. Argument: dict root, component (auth, mcp), server. */}}
{{- define "keystile.tls.secret" -}}
{{- $tls := .root.Values.network.tls -}}
{{- eq .component "auth" | ternary $tls.authSecret (get $tls.serverSecrets (.server | default "")) -}}
{{- end }}

{{/* Something if any of the services speaks TLS, or nothing. Argument: the chart's context. */}}
{{- define "keystile.tls.any" -}}
{{- .Values.network.tls.authSecret }}{{ values .Values.network.tls.serverSecrets | join "" -}}
{{- end }}

{{/* http or https. Argument: as for the Secret. */}}
{{- define "keystile.scheme" -}}
{{- include "keystile.tls.secret" . | empty | ternary "http" "https" -}}
{{- end }}

{{/*
Where a service of the release is inside the cluster: with TLS by the name that its certificate is for.
  Argument: dict root, component, server, name (of the Service), port.
*/}}
{{- define "keystile.address" -}}
{{- $scheme := include "keystile.scheme" . -}}
{{ $scheme }}://{{ .name }}{{ if eq $scheme "https" }}.{{ .root.Release.Namespace }}.svc{{ end }}:{{ .port }}
{{- end }}

{{/*
A service's own part of its settings. Argument: dict root, component, server, port, isAuth (whether it is, or holds, the
authorization server, which may ask its clients for certificates).
*/}}
{{- define "keystile.listen" -}}
{{- if include "keystile.tls.secret" . -}}
listen:
  host: 0.0.0.0
  port: {{ .port }}
  {{- $asks := and .isAuth (include "keystile.isFile" .root.Values.network.tls.clientCa) }}
  tls: {certificate_file: /etc/keystile/tls/tls.crt, key_file: /etc/keystile/tls/tls.key{{ if $asks }}, client_ca_file: /etc/keystile/files/listen__tls__client_ca_file{{ end }}}
{{- else -}}
listen: {host: 0.0.0.0, port: {{ .port }}}
{{- end }}
{{- end }}

{{/* Argument: as "keystile.tls.secret". */}}
{{- define "keystile.tls.mount" -}}
{{- if include "keystile.tls.secret" . -}}
# A folder and not single files: those would never be renewed.
- name: tls
  mountPath: /etc/keystile/tls
  readOnly: true
{{- end }}
{{- end }}

{{/* Argument: as "keystile.tls.secret". */}}
{{- define "keystile.tls.volume" -}}
{{- with include "keystile.tls.secret" . -}}
- name: tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
{{- end }}
{{- end }}

{{/* Certificate authorities as a volume with the file ca.crt. Argument: dict name (of the volume), ca. */}}
{{- define "keystile.ca.volume" -}}
{{- $volume := .name -}}
{{- with .ca -}}
- name: {{ $volume }}
  {{- if .secret }}
  secret:
    secretName: {{ .secret }}
  {{- else }}
  configMap:
    name: {{ .configMap }}
  {{- end }}
    items:
      - {key: {{ .key | default "ca.crt" }}, path: ca.crt}
{{- end }}
{{- end }}
