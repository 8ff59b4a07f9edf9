{{/* What the settings of the topology embedded have beside the authorization server's. Argument: dict server (resolved),
inPod (whether the store is in the pod). */}}
{{- define "keystile.embedded.settings" -}}
{{- $settings := omit .server.told.settings "sessions" -}}
{{- with include "keystile.upstream.settings" .server | fromYaml }}{{- $_ := set $settings "upstream" . }}{{- end -}}
{{- with .server.user_scopes }}{{- $_ := set $settings "user_scopes" . }}{{- end -}}
{{ include "keystile.protectedResource" .server }}
mcp_sessions: {{ .server.sessions }}
{{- if .inPod }}
data_dir: /data
{{- end }}
{{- with $settings }}
{{ toYaml . }}
{{- end }}
{{- end }}
