{{/* Names and labels. Every object is called by the release and its component: keystile-auth, keystile-mcp. */}}

{{/*
Labels that pods are selected by, and that never change in the life of a release.
  Argument: dict root (the chart's context), component, and server for an MCP server's.
*/}}
{{- define "keystile.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .server }}
keystile/server: {{ . }}
{{- end }}
{{- end }}

{{/* All labels of an object. Argument as above. */}}
{{- define "keystile.labels" -}}
{{ include "keystile.selector" . }}
app.kubernetes.io/part-of: keystile
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* An image's reference. Argument: dict image, version (its tag where none is set). */}}
{{- define "keystile.image" -}}
{{- $tag := .image.tag | default .version -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ $tag }}
{{- end -}}
{{- end }}

{{/* The one command that is asked of whoever installs: it makes the Secret with all that this release reads from it. */}}
{{- define "keystile.secretCommand" -}}
{{- $name := .Values.existingSecret | default "keystile" -}}
{{- $keys := list -}}
{{- with .Values.auth.store.passwordKey -}}
{{- $keys = append $keys . -}}
{{- end -}}
{{- with .Values.auth.store.sentinelPasswordKey -}}
{{- $keys = append $keys . -}}
{{- end -}}
{{- with include "keystile.sessionStore" . | fromYaml -}}
{{- with $.Values.mcp.sessionStore.passwordKey -}}
{{- $keys = append $keys . -}}
{{- end -}}
{{- end -}}
{{- range concat (values .Values.servers) (values .Values.auth.clients) -}}
{{- with . }}{{- with .secretKey -}}
{{- $keys = append $keys . -}}
{{- end -}}{{- end -}}
{{- end -}}
kubectl create secret generic {{ $name }} --namespace {{ .Release.Namespace }} --from-literal=master-key="$(openssl rand -base64 32)"
{{- range $keys | uniq | sortAlpha }} --from-literal={{ . }}="$(openssl rand -hex 32)"{{ end }}
{{- end }}
