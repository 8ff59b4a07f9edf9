{{/* The authorization server's settings file. Argument: dict root, model. */}}
{{- define "keystile.auth.settings" -}}
{{- $model := .model -}}
{{- $root := .root -}}
{{- $auth := $root.Values.auth -}}
{{- $settings := deepCopy $auth.settings -}}
{{- with merge $model.store.settings ($settings.store | default dict) -}}
{{- $_ := set $settings "store" . -}}
{{- end -}}
{{- if or $auth.metadataDocuments.ca.secret $auth.metadataDocuments.ca.configMap -}}
{{- $documents := dict "ca_file" "/etc/keystile/document-ca/ca.crt" -}}
{{- $_ := set $settings "metadata_documents" (merge $documents ($settings.metadata_documents | default dict)) -}}
{{- end -}}
{{- $resources := dict -}}
{{- $own := eq $model.topology "embedded" | ternary $model.auth.server "" -}}
{{- range $name, $server := omit $model.servers $own -}}
{{- $resource := dict "uri" $server.uri "title" $server.title "scopes" $server.scopes -}}
{{- with $server.default_scopes }}{{- $_ := set $resource "default_scopes" . -}}{{- end -}}
{{- with $server.user_scopes }}{{- $_ := set $resource "user_scopes" . -}}{{- end -}}
{{- with $server.access_token }}{{- $_ := set $resource "access_token" . -}}{{- end -}}
{{- with $server.identity }}{{- $_ := set $resource "service_account" . -}}{{- end -}}
{{- with $server.jwks }}{{- $_ := set $resource "jwks" . -}}{{- end -}}
{{- with $server.jwks_uri }}{{- $_ := set $resource "jwks_uri" . -}}{{- end -}}
{{- $_ := set $resources $name $resource -}}
{{- end -}}
{{- $clients := dict -}}
{{- range $name, $each := $auth.clients -}}
{{- $uris := list -}}
{{- range $each.servers }}{{- $uris = append $uris (get $model.servers .).uri -}}{{- end -}}
{{- $client := dict "title" $each.title "resources" $uris "scopes" $each.scopes -}}
{{- with $each.service_account }}{{- $_ := set $client "service_account" . -}}{{- end -}}
{{- with $each.jwks }}{{- $_ := set $client "jwks" . -}}{{- end -}}
{{- with $each.jwks_uri }}{{- $_ := set $client "jwks_uri" . -}}{{- end -}}
{{- $_ := set $clients $name $client -}}
{{- end -}}
{{- if $model.auth.testClient -}}
{{- $_ := set $clients "helm-test" (include "keystile.testClient" . | fromYaml) -}}
{{- end -}}
issuer: {{ $model.issuer.url | quote }}
{{- with $clients }}
clients:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $model.auth.identity.settings }}
identity:
  {{- toYaml .identity | nindent 2 }}
{{- end }}
{{- with $resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $own }}
{{- $_ := unset $settings "drain_seconds" }}
{{ include "keystile.embedded.settings" (dict "server" (get $model.servers $own) "inPod" $model.store.inPod) }}
{{- end }}
{{ include "keystile.listen" (dict "root" $root "component" $model.auth.component "server" $model.auth.server "port" $model.auth.port "isAuth" true) }}
metrics: {host: 0.0.0.0, port: {{ $own | empty | ternary 9464 9465 }}}
trusted_proxies: {{ toJson $root.Values.network.trusted_proxies }}
{{- if $model.auth.identities }}
# Who signed a service-account token: the cluster's own keys, by its discovery documents.
kubernetes:
  url: https://kubernetes.default.svc
  ca_file: /var/run/secrets/kubernetes/ca.crt
  token_file: /var/run/secrets/kubernetes/token
{{- end }}
{{ include "keystile.observabilitySettings" $root }}
{{- with $settings }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The client that helm test gets its token with: no more than what every request to the servers here needs. */}}
{{- define "keystile.testClient" -}}
{{- $uris := list -}}
{{- $scopes := list -}}
{{- range .model.servers -}}
{{- if .deploy -}}
{{- $uris = append $uris .uri -}}
{{- $scopes = concat $scopes (.required_scopes | default (keys .scopes | sortAlpha | first | list)) -}}
{{- end -}}
{{- end -}}
title: helm test
resources: {{ toJson $uris }}
scopes: {{ $scopes | uniq | sortAlpha | toJson }}
service_account: {{ .root.Release.Namespace }}/{{ .root.Release.Name }}-test
{{- end }}
