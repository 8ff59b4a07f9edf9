{{/*
Values that are settings, but for what no value may hold. A secret is a key in existingSecret, and is mounted as the file
by whose name the service knows it; a file is a key of a Secret or ConfigMap, and its setting is where it is mounted.

  clientSecretKey: corp-secret       → the file PATH__client_secret among the secrets
  ca: {configMap: corp-ca}           → ca_file: /etc/keystile/files/PATH__ca_file

  Argument: dict value (a map), path (what the names of files begin with).
  Answer: settings, secrets (file to key of existingSecret), files (file to {secret or configMap, key}).
*/}}
{{- define "keystile.told" -}}
{{- $settings := dict -}}
{{- $secrets := dict -}}
{{- $files := dict -}}
{{- range $name, $value := .value -}}
{{- $path := compact (list $.path $name) | join "__" -}}
{{- if and (kindIs "string" $value) (hasSuffix "Key" $name) -}}
{{- if $value }}{{- $_ := set $secrets (compact (list $.path (trimSuffix "Key" $name | snakecase)) | join "__") $value -}}{{- end -}}
{{- else if include "keystile.isFile" $value -}}
{{- $setting := printf "%s_file" (snakecase $name) -}}
{{- $file := compact (list $.path $setting) | join "__" -}}
{{- $_ := set $files $file (dict "secret" $value.secret "configMap" $value.configMap "key" ($value.key | default (eq $name "ca" | ternary "ca.crt" ""))) -}}
{{- $_ := set $settings $setting (printf "/etc/keystile/files/%s" $file) -}}
{{- else if kindIs "map" $value -}}
{{- $inner := include "keystile.told" (dict "value" $value "path" $path) | fromYaml -}}
{{- $_ := set $settings $name $inner.settings -}}
{{- $secrets = merge $secrets $inner.secrets -}}
{{- $files = merge $files $inner.files -}}
{{- else if and (kindIs "slice" $value) (kindIs "map" (first $value)) -}}
{{- $items := list -}}
{{- range $index, $item := $value -}}
{{- $inner := include "keystile.told" (dict "value" $item "path" (printf "%s__%d" $path $index)) | fromYaml -}}
{{- $items = append $items $inner.settings -}}
{{- $secrets = merge $secrets $inner.secrets -}}
{{- $files = merge $files $inner.files -}}
{{- end -}}
{{- $_ := set $settings $name $items -}}
{{- else -}}
{{- $_ := set $settings $name $value -}}
{{- end -}}
{{- end -}}
settings: {{ toJson $settings }}
secrets: {{ toJson $secrets }}
files: {{ toJson $files }}
{{- end }}

{{/* Something if a value names a file in a Secret or ConfigMap. Argument: the value. */}}
{{- define "keystile.isFile" -}}
{{- if kindIs "map" . -}}
{{- if or (kindIs "string" .secret) (kindIs "string" .configMap) }}{{ if or .secret .configMap }}yes{{ end }}{{ end -}}
{{- end -}}
{{- end }}

{{/* The files as a volume. Argument: the map `files` of keystile.told. */}}
{{- define "keystile.files.volume" -}}
{{- with . -}}
- name: files
  projected:
    defaultMode: 0440
    sources:
      {{- range $file, $from := . }}
      - {{ empty $from.secret | ternary "configMap" "secret" }}:
          name: {{ $from.secret | default $from.configMap }}
          items:
            - {key: {{ $from.key | quote }}, path: {{ $file }}}
      {{- end }}
{{- end }}
{{- end }}

{{/* Argument: the map `files` of keystile.told. */}}
{{- define "keystile.files.mount" -}}
{{- if . -}}
- name: files
  mountPath: /etc/keystile/files
  readOnly: true
{{- end }}
{{- end }}

{{/* What is wrong with the files. Argument: dict at (where they are said), files (of keystile.told). */}}
{{- define "keystile.check.files" -}}
{{- range $file, $from := .files }}
{{- $name := regexReplaceAll "__" (trimSuffix "_file" $file) "." }}
{{- if and $from.secret $from.configMap }}
{{ $.at }}.{{ $name }}: name a secret or a configMap, not both
{{- end }}
{{- if not $from.key }}
{{ $.at }}.{{ $name }}.key: is required: the key of {{ $from.secret | default $from.configMap }} that has the file
{{- end }}
{{- end }}
{{- end }}

{{/*
How people sign in: `settings`, `secrets` and `files` as of keystile.told, and `egress`: what auth connects to for it, each
{ports, cidrs}, anywhere where no cidrs are. Argument: the chart's context.
*/}}
{{- define "keystile.identities" -}}
{{- $settings := dict -}}
{{- $egress := list -}}
{{- range $name, $identity := .Values.auth.identity -}}
{{- $_ := set $settings $name (omit $identity "egress") -}}
{{- if $identity.egress -}}
{{- range $identity.egress }}{{- $egress = append $egress (dict "name" $name "ports" .ports "cidrs" (list .cidr)) -}}{{- end -}}
{{- else -}}
{{- $ports := list -}}
{{- range $setting := list "issuer" "url" "urls" "metadata_url" -}}
{{- range (kindIs "slice" (get $identity $setting) | ternary (get $identity $setting) (compact (list (get $identity $setting)))) -}}
{{- $ports = append $ports (include "keystile.port" .) -}}
{{- end -}}
{{- end -}}
{{/* 443 of public addresses is allowed for all of them. */}}
{{- with without $ports "443" }}{{- $egress = append $egress (dict "name" $name "ports" (uniq .)) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $listen := dict "tls" (dict "clientCa" .Values.network.tls.clientCa) -}}
{{- $told := include "keystile.told" (dict "value" (dict "identity" $settings "listen" $listen) "path" "") | fromYaml -}}
{{- if .Values.auth.identity }}
settings: {{ toJson $told.settings }}
secrets: {{ toJson $told.secrets }}
files: {{ toJson $told.files }}
egress: {{ toJson $egress }}
{{- end }}
{{- end }}
