{{/* The settings file of one MCP server. Argument: dict root, model, name (of the server). */}}
{{- define "keystile.mcp.settings" -}}
{{- $server := get .model.servers .name -}}
{{- $settings := deepCopy $server.told.settings -}}
{{- $introspection := dict -}}
{{- if eq .model.topology "separate" -}}
{{- $introspection = dict "url" .model.auth.introspection "client_id" .name -}}
{{- else if $server.secretKey -}}
{{- $introspection = dict "client_id" (dig "introspection" "client_id" .name $settings) -}}
{{- end -}}
{{- if $server.identity -}}
{{- $_ := set $introspection "token_file" "/var/run/secrets/keystile/token" -}}
{{- end -}}
{{- if .root.Values.network.tls.authSecret -}}
{{- $_ := set $introspection "ca_file" "/etc/keystile/ca/ca.crt" -}}
{{- end -}}
{{- with merge $introspection ($settings.introspection | default dict) -}}
{{- $_ := set $settings "introspection" . -}}
{{- end -}}
{{- if and (eq .model.topology "separate") (eq ($settings.validation | default "") "jwks") -}}
{{- $jwks := dict "url" .model.auth.jwks -}}
{{- if .root.Values.network.tls.authSecret }}{{- $_ := set $jwks "ca_file" "/etc/keystile/ca/ca.crt" -}}{{- end -}}
{{- $_ := set $settings "jwks" (merge $jwks ($settings.jwks | default dict)) -}}
{{- end -}}
{{- $settings = omit $settings "authorization_server" -}}
{{- $_ := set $settings "sessions" $server.sessions -}}
{{- if eq $server.sessions "shared" -}}
{{- $store := dict "url" .model.sessionStore.url -}}
{{- with .model.sessionStore.username }}{{- $_ := set $store "username" . -}}{{- end -}}
{{- if .model.sessionStore.ca }}{{- $_ := set $store "ca_file" "/etc/keystile/store-ca/ca.crt" -}}{{- end -}}
{{- $_ := set $settings "store" (merge $store ($settings.store | default dict)) -}}
{{- /* Its address is the pod's, which the environment says. */ -}}
{{- $_ := set $settings "handover" (dict "host" "0.0.0.0") -}}
{{- end -}}
{{- with include "keystile.upstream.settings" $server | fromYaml -}}
{{- $_ := set $settings "upstream" . -}}
{{- end -}}
authorization_server: {{ $server.issuer | quote }}
{{ include "keystile.protectedResource" $server }}
{{ include "keystile.listen" (dict "root" .root "component" "mcp" "server" .name "port" 3232) }}
metrics: {host: 0.0.0.0, port: 9465}
trusted_proxies: {{ toJson .root.Values.network.trusted_proxies }}
{{ include "keystile.observabilitySettings" .root }}
{{ toYaml $settings }}
{{- end }}

{{/* What a server protects, and how. Argument: the server (resolved). */}}
{{- define "keystile.protectedResource" -}}
resource: {{ .uri | quote }}
resource_name: {{ .title | quote }}
scopes:
  {{- toYaml .scopes | nindent 2 }}
required_scopes: {{ toJson .required_scopes }}
policy: {{ toJson .policy }}
{{- with .app }}
app: {{ . | quote }}
{{- end }}
{{- end }}

{{/* The server behind this one. Argument: the server (resolved). */}}
{{- define "keystile.upstream.settings" -}}
{{- with .upstream -}}
{{- $upstream := omit . "bearerKey" "tokenAudience" "identityKey" "ca" -}}
{{- if .tokenAudience }}{{- $_ := set $upstream "token_file" "/var/run/secrets/upstream/token" -}}{{- end -}}
{{- if .identityKey }}{{- $_ := set $upstream "identity_key_file" "/etc/keystile/identity/key" -}}{{- end -}}
{{- if .ca }}{{- $_ := set $upstream "ca_file" "/etc/keystile/upstream-ca/ca.crt" -}}{{- end -}}
{{ toYaml $upstream }}
{{- end }}
{{- end }}
