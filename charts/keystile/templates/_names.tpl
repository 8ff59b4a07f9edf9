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

{{/*
The keys that this release reads from its Secret: those whose contents whoever installs makes at random, and those that
somebody else gave. Argument: the chart's context.
*/}}
{{- define "keystile.secretKeys" -}}
{{- $values := .Values -}}
{{- $made := list -}}
{{- $given := list -}}
{{- if ne $values.topology "external" -}}
{{- $made = append $made "master-key" -}}
{{- end -}}
{{- $store := include "keystile.store" . | fromYaml -}}
{{- $shares := and (include "keystile.sessionStore" . | fromYaml) (or (eq $values.topology "separate") (include "keystile.asksForSharedSessions" .)) -}}
{{- if or $store.password (and $shares (eq $values.topology "external") (not $values.mcp.sessionStore.url)) -}}
{{- with $values.auth.store.passwordKey }}{{- $made = append $made . -}}{{- end -}}
{{- end -}}
{{- with $values.auth.store.sentinelPasswordKey }}{{- $made = append $made . -}}{{- end -}}
{{- if $shares -}}
{{- with $values.mcp.sessionStore.passwordKey }}{{- $made = append $made . -}}{{- end -}}
{{- end -}}
{{- range concat (values $values.servers) (values $values.auth.clients) -}}
{{- with . }}{{- with .secretKey -}}
{{- if eq $values.topology "external" }}{{- $given = append $given . -}}{{- else }}{{- $made = append $made . -}}{{- end -}}
{{- end -}}{{- end -}}
{{- end -}}
{{- $told := list (include "keystile.identities" . | fromYaml) (include "keystile.told" (dict "value" $values.mcp.settings "path" "mcp.settings") | fromYaml) -}}
{{- range $name, $server := $values.servers -}}
{{- $upstream := dig "upstream" dict ($server | default dict) -}}
{{- $given = concat $given (compact (list $upstream.bearerKey $upstream.identityKey)) -}}
{{- with ($server | default dict).settings -}}
{{- $told = append $told (include "keystile.told" (dict "value" . "path" $name) | fromYaml) -}}
{{- end -}}
{{- end -}}
{{- with $values.observability.audit.collector -}}
{{- if .enabled }}{{- $given = concat $given (compact (list .authorizationKey)) }}{{- end -}}
{{- end -}}
{{- range $told }}{{- $given = concat $given (values (.secrets | default dict)) -}}{{- end -}}
made: {{ $made | uniq | sortAlpha | toJson }}
given: {{ $given | uniq | sortAlpha | toJson }}
{{- end }}

{{/*
The one command that is asked of whoever installs: it makes the Secret with all that this release reads from it.
Argument: the chart's context. Nothing where nothing is read.
*/}}
{{- define "keystile.secretCommand" -}}
{{- $keys := include "keystile.secretKeys" . | fromYaml -}}
{{- if or $keys.made $keys.given -}}
kubectl create secret generic {{ .Values.existingSecret | default "keystile" }} --namespace {{ .Release.Namespace }}
{{- if has "master-key" $keys.made }} --from-literal=master-key="$(openssl rand -base64 32)"{{ end }}
{{- range without $keys.made "master-key" }} --from-literal={{ . }}="$(openssl rand -hex 32)"{{ end }}
{{- range $keys.given }} --from-literal={{ . }}="…"{{ end }}
{{- end }}
{{- end }}
