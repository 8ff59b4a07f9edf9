{{/* What an MCP server's pod mounts besides its settings. Argument of each: dict root, model, server (the resolved one). */}}

{{/* Keys of the Secret by the name of the setting that each is. */}}
{{- define "keystile.mcp.secretKeys" -}}
{{- $keys := dict -}}
{{- $keys = merge $keys .server.told.secrets -}}
{{- with .server.secretKey }}{{- $_ := set $keys "introspection__client_secret" . -}}{{- end -}}
{{- with (.server.upstream | default dict).bearerKey }}{{- $_ := set $keys "upstream__bearer" . -}}{{- end -}}
{{- $passwordKey := .root.Values.mcp.sessionStore.passwordKey -}}
{{- if and (eq .server.sessions "shared") $passwordKey }}{{- $_ := set $keys "store__password" $passwordKey -}}{{- end -}}
{{- toYaml $keys -}}
{{- end }}

{{- define "keystile.mcp.mounts" -}}
{{- if include "keystile.mcp.secretKeys" . | fromYaml }}
- name: secrets
  mountPath: /var/run/secrets/settings
  readOnly: true
{{- end }}
{{- if .server.identity }}
- name: credentials
  mountPath: /var/run/secrets/keystile
  readOnly: true
{{- end }}
{{- with include "keystile.files.mount" .server.told.files }}
{{ . }}
{{- end }}
{{- if .root.Values.network.tls.authSecret }}
- name: ca
  mountPath: /etc/keystile/ca
  readOnly: true
{{- end }}
{{- if and (eq .server.sessions "shared") .model.sessionStore.ca }}
- name: store-ca
  mountPath: /etc/keystile/store-ca
  readOnly: true
{{- end }}
{{- with include "keystile.upstream.mounts" . | trim }}
{{ . }}
{{- end }}
{{- end }}

{{/* What is needed for the server behind this one. */}}
{{- define "keystile.upstream.mounts" -}}
{{- $upstream := .server.upstream | default dict -}}
{{- if $upstream.tokenAudience }}
- name: upstream-token
  mountPath: /var/run/secrets/upstream
  readOnly: true
{{- end }}
{{- if $upstream.identityKey }}
- name: identity
  mountPath: /etc/keystile/identity
  readOnly: true
{{- end }}
{{- if $upstream.ca }}
- name: upstream-ca
  mountPath: /etc/keystile/upstream-ca
  readOnly: true
{{- end }}
{{- end }}

{{- define "keystile.mcp.volumes" -}}
{{- with include "keystile.mcp.secretKeys" . | fromYaml }}
- name: secrets
  secret:
    secretName: {{ $.root.Values.existingSecret }}
    defaultMode: 0440
    # A file is a setting by its name; other keys of the Secret stay out.
    items:
      {{- range $file, $key := . }}
      - {key: {{ $key }}, path: {{ $file }}}
      {{- end }}
{{- end }}
{{- with include "keystile.credentials" (dict "root" .root "server" .server "issuer" .model.issuer.url) }}
{{ . }}
{{- end }}
{{- with include "keystile.files.volume" .server.told.files }}
{{ . }}
{{- end }}
{{- if .root.Values.network.tls.authSecret }}
# The authority of auth's certificate.
{{ include "keystile.ca.volume" (dict "name" "ca" "ca" .root.Values.network.tls.ca) }}
{{- end }}
{{- if eq .server.sessions "shared" }}
{{- with .model.sessionStore.ca }}
{{ include "keystile.ca.volume" (dict "name" "store-ca" "ca" .) }}
{{- end }}
{{- end }}
{{- with include "keystile.upstream.volumes" . | trim }}
{{ . }}
{{- end }}
{{- end }}

{{- define "keystile.upstream.volumes" -}}
{{- $upstream := .server.upstream | default dict -}}
{{- with $upstream.tokenAudience }}
- name: upstream-token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          audience: {{ . | quote }}
          expirationSeconds: 3600
{{- end }}
{{- with $upstream.identityKey }}
- name: identity
  secret:
    secretName: {{ $.root.Values.existingSecret }}
    defaultMode: 0440
    items:
      - {key: {{ . }}, path: key}
{{- end }}
{{- with $upstream.ca }}
{{ include "keystile.ca.volume" (dict "name" "upstream-ca" "ca" .) }}
{{- end }}
{{- end }}
