{{/* The settings file of one MCP server. Argument: dict root, model, name (of the server). */}}
{{- define "keystile.mcp.settings" -}}
{{- $server := get .model.servers .name -}}
{{- $settings := deepCopy $server.settings -}}
{{- $introspection := dict "url" .model.auth.introspection "client_id" .name -}}
{{- if $server.identity -}}
{{- $_ := set $introspection "token_file" "/var/run/secrets/keystile/token" -}}
{{- end -}}
{{- if .root.Values.network.tls.authSecret -}}
{{- $_ := set $introspection "ca_file" "/etc/keystile/ca/ca.crt" -}}
{{- end -}}
{{- $_ := set $settings "introspection" (merge $introspection ($settings.introspection | default dict)) -}}
{{- if eq ($settings.validation | default "") "jwks" -}}
{{- $jwks := dict "url" .model.auth.jwks -}}
{{- if .root.Values.network.tls.authSecret }}{{- $_ := set $jwks "ca_file" "/etc/keystile/ca/ca.crt" -}}{{- end -}}
{{- $_ := set $settings "jwks" (merge $jwks ($settings.jwks | default dict)) -}}
{{- end -}}
{{- $_ := set $settings "sessions" $server.sessions -}}
{{- if eq $server.sessions "shared" -}}
{{- $store := dict "url" .model.sessionStore.url -}}
{{- with .model.sessionStore.username }}{{- $_ := set $store "username" . -}}{{- end -}}
{{- if .model.sessionStore.ca }}{{- $_ := set $store "ca_file" "/etc/keystile/store-ca/ca.crt" -}}{{- end -}}
{{- $_ := set $settings "store" (merge $store ($settings.store | default dict)) -}}
{{- /* Its address is the pod's, which the environment says. */ -}}
{{- $_ := set $settings "handover" (dict "host" "0.0.0.0") -}}
{{- end -}}
{{- with $server.upstream -}}
{{- $upstream := omit . "bearerKey" "tokenAudience" "identityKey" "ca" -}}
{{- if .tokenAudience }}{{- $_ := set $upstream "token_file" "/var/run/secrets/upstream/token" -}}{{- end -}}
{{- if .identityKey }}{{- $_ := set $upstream "identity_key_file" "/etc/keystile/identity/key" -}}{{- end -}}
{{- if .ca }}{{- $_ := set $upstream "ca_file" "/etc/keystile/upstream-ca/ca.crt" -}}{{- end -}}
{{- $_ := set $settings "upstream" $upstream -}}
{{- end -}}
resource: {{ $server.uri | quote }}
resource_name: {{ $server.title | quote }}
authorization_server: {{ .model.issuer.url | quote }}
scopes:
  {{- toYaml $server.scopes | nindent 2 }}
required_scopes: {{ toJson $server.required_scopes }}
policy: {{ toJson $server.policy }}
{{- with $server.app }}
app: {{ . | quote }}
{{- end }}
{{ include "keystile.listen" (dict "root" .root "component" "mcp" "server" .name "port" 3232) }}
metrics: {host: 0.0.0.0, port: 9465}
trusted_proxies: {{ toJson .root.Values.network.trusted_proxies }}
{{ include "keystile.observabilitySettings" .root }}
{{ toYaml $settings }}
{{- end }}
