{{/*
What the schema cannot say in a sentence. Each of these gives one line a problem, or nothing.
*/}}

{{/*
A URL that clients see, by the rule that the services have for one: https, or http on a loopback host.
  Argument: dict name (of the value), url.
*/}}
{{- define "keystile.check.url" -}}
{{- $loopback := "^http://(127\\.0\\.0\\.1|localhost|\\[::1\\])(:[0-9]+)?(/.*)?$" -}}
{{- if and (hasPrefix "http://" .url) (not (regexMatch $loopback .url)) -}}
{{ .name }}: {{ .url }} must be https (plain http is accepted for 127.0.0.1, ::1 and localhost only)
{{- else if not (regexMatch "^https?://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\\[[0-9a-f:]+\\])(:[0-9]+)?(/[^?#\\s]*)?$" .url) -}}
{{ .name }}: {{ .url }} must be an absolute https URL with a lower-case host and no query, fragment or user, such as https://auth.example.com
{{- end -}}
{{- end }}

{{/* The issuer. Argument: the chart's context. */}}
{{- define "keystile.check.issuer" -}}
{{- if not .Values.issuer }}
issuer: is required: the public URL of the authorization server, such as --set issuer=https://auth.example.com
{{- else }}
{{ include "keystile.check.url" (dict "name" "issuer" "url" .Values.issuer) }}
{{- if and (hasSuffix "/" .Values.issuer) (ne .Values.topology "external") }}
issuer: {{ .Values.issuer }} must not end with a slash
{{- end }}
{{- end }}
{{- end }}

{{/* The Secret. Argument: the chart's context. */}}
{{- define "keystile.check.secret" -}}
{{- if not .Values.existingSecret }}
{{- with include "keystile.secretCommand" . }}
existingSecret: is required. Make the Secret with this command, then give --set existingSecret=keystile:
    {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* What another topology has no use for. Argument: the chart's context. */}}
{{- define "keystile.check.topology" -}}
{{- $topology := .Values.topology -}}
{{- $auth := .Values.auth -}}
{{- if eq $topology "external" }}
{{- $store := or $auth.store.url $auth.store.sentinels $auth.store.cluster -}}
{{- $said := dict "auth.clients" $auth.clients "auth.identity" $auth.identity "auth.settings" $auth.settings "auth.store" $store "network.tls.authSecret" .Values.network.tls.authSecret "network.publicIntrospection" .Values.network.publicIntrospection }}
{{- range $name, $value := $said }}
{{- if $value }}
{{ $name }}: is for Keystile's own authorization server; topology is external
{{- end }}
{{- end }}
{{- end }}
{{- if eq $topology "embedded" }}
{{- if .Values.network.tls.authSecret }}
network.tls.authSecret: the authorization server has no pod of its own in the topology embedded; network.tls.serverSecrets is for the one there is
{{- end }}
{{- if .Values.network.tls.valkeySecret }}
network.tls.valkeySecret: the topology embedded has no Valkey of its own pod
{{- end }}
{{- if .Values.mcp.sessionStore.url }}
mcp.sessionStore: sessions cannot be shared in the topology embedded
{{- end }}
{{- end }}
{{- end }}

{{/* The topology embedded. Argument: dict root, model, servers (resolved). */}}
{{- define "keystile.check.embedded" -}}
{{- $here := list -}}
{{- range $name, $server := .servers }}{{- if $server.deploy }}{{- $here = append $here $name }}{{- end }}{{- end }}
{{- if ne (len $here) 1 }}
servers: the topology embedded has one server in its pod, and {{ len $here | eq 0 | ternary "none is there" (printf "%s are several" (join ", " $here)) }}; others have deploy: false, or topology: separate
{{- else }}
{{- $name := first $here }}
{{- $server := get .servers $name }}
{{- $at := printf "servers.%s" $name }}
{{- $origin := regexFind "^[a-z]+://[^/]*" .model.issuer.url }}
{{- if ne $origin (regexFind "^[a-z]+://[^/]*" $server.uri) }}
{{ $at }}: {{ $server.uri }} must begin with {{ $origin }}, as issuer does: one pod has one public origin
{{- end }}
{{- if and .model.store.inPod (or $server.autoscaling.enabled (gt (int $server.replicas) 1)) }}
{{ $server.autoscaling.enabled | ternary "mcp.autoscaling" "mcp.embedded.replicas" }}: several pods need a store elsewhere, since the one in a pod is that pod's alone: auth.store.url, sentinels or cluster
{{- end }}
{{- range list "secretKey" "jwks" "jwks_uri" "access_token" "default_scopes" }}
{{- if get $server . }}
{{ $at }}.{{ . }}: the server is in one pod with the authorization server, which looks tokens up itself
{{- end }}
{{- end }}
{{- range $setting := keys $server.settings }}
{{- if not (has $setting (list "allowed_origins" "resource_documentation" "drain_seconds" "sessions")) }}
{{ $at }}.settings.{{ $setting }}: there is nobody to ask in the topology embedded
{{- end }}
{{- end }}
{{- if eq $server.sessions "shared" }}
{{ $at }}.settings.sessions: cannot be shared in the topology embedded; process for one pod, none for several
{{- end }}
{{- end }}
{{- end }}

{{/* How people sign in. Argument: dict root, told (of keystile.identities). */}}
{{- define "keystile.check.identities" -}}
{{ include "keystile.check.files" (dict "at" "auth" "files" (.told.files | default dict)) }}
{{- $tls := .root.Values.network.tls -}}
{{- $asks := include "keystile.isFile" $tls.clientCa -}}
{{- $kinds := list -}}
{{- range $name, $identity := .root.Values.auth.identity }}
{{- $kinds = append $kinds $identity.kind -}}
{{- $at := printf "auth.identity.%s" $name }}
{{- if ne (eq $name "local") (eq $identity.kind "local") }}
{{ $at }}: the identity local, and no other, has the kind local
{{- end }}
{{- if and (eq $identity.kind "header") (not (and $asks (include "keystile.tls.any" $.root))) }}
{{ $at }}: a header counts over mutual TLS alone; name the certificate of auth in network.tls.{{ eq $.root.Values.topology "embedded" | ternary "serverSecrets" "authSecret" }}, and the authority of the proxy's in network.tls.clientCa
{{- end }}
{{- $needs := dict }}
{{- if eq $identity.preset "github" }}{{- $_ := set $needs "clientSecretKey" "GitHub has no clients without a secret" }}{{- end }}
{{- if $identity.bind_dn }}{{- $_ := set $needs "bindPasswordKey" "bind_dn signs in with a password" }}{{- end }}
{{- range $key, $reason := $needs }}
{{- if not (get $identity $key) }}
{{ $at }}.{{ $key }}: {{ $reason }}; name the key of existingSecret that has it, such as --set {{ $at }}.{{ $key }}={{ $name }}-secret, and make the Secret with
    {{ include "keystile.secretCommand" $.root }} --from-literal={{ $name }}-secret="…"
{{- end }}
{{- end }}
{{- end }}
{{- if and $asks (not (has "header" $kinds)) }}
network.tls.clientCa: is for an identity of kind header, and there is none
{{- end }}
{{- end }}

{{/* Names that Kubernetes would cut off or refuse. Argument: the chart's context. */}}
{{- define "keystile.check.release" -}}
{{- if gt (len .Release.Name) 40 }}
the release's name {{ .Release.Name }} is longer than 40 characters: names of Services are made from it
{{- end }}
{{- end }}

{{/* The store. Argument: the chart's context. */}}
{{- define "keystile.check.store" -}}
{{- $store := .Values.auth.store }}
{{- if and $store.url (not (regexMatch "^rediss?://[^@/\\s]+(/[0-9]+)?$" $store.url)) }}
auth.store.url: must be redis://host:port/database or rediss://…, without user or password; they go into username and passwordKey
{{- end }}
{{- $model := include "keystile.store" . | fromYaml }}
{{- if and $store.url $store.sentinels }}
auth.store: url and sentinels name two stores; keep one of them
{{- end }}
{{- if and $store.url $store.cluster }}
auth.store: url and cluster name two stores; keep one of them
{{- end }}
{{- if and $store.sentinels $store.cluster }}
auth.store: sentinels and cluster name two stores; keep one of them
{{- end }}
{{- if and (eq (dig "store" "durability" "memory" .Values.auth.settings) "replicated") (not (or $store.url $store.sentinels $store.cluster)) }}
auth.settings.store.durability: replicated needs a store with replicas, and the release's own has none; name one in auth.store, or take fsync
{{- end }}
{{- if and $store.sentinels (not $store.sentinel_master) }}
auth.store.sentinel_master: is required with sentinels; it is the name in their sentinel monitor line
{{- end }}
{{- if and (not $store.sentinels) (or $store.sentinel_master $store.sentinel_username $store.sentinelPasswordKey) }}
auth.store.sentinels: is required with sentinel_master, sentinel_username or sentinelPasswordKey
{{- end }}
{{- if and $model.own (ne .Values.topology "external") (not $store.passwordKey) }}
auth.store.passwordKey: the release's own Valkey needs a password; name the key of existingSecret that has it
{{- end }}
{{- if and $model.own $store.username }}
auth.store.username: is for a store elsewhere; the release's own Valkey has none
{{- end }}
{{- if and $model.inPod $store.username }}
auth.store.username: is for a store elsewhere; the one in the pod has none
{{- end }}
{{- if and $store.tls (not $store.sentinels) (not $store.cluster) }}
auth.store.tls: is for sentinels and cluster; url says it with rediss://
{{- end }}
{{- if and $store.ca.secret $store.ca.configMap }}
auth.store.ca: name a secret or a configMap, not both
{{- end }}
{{- if and (or $store.ca.secret $store.ca.configMap) (not $model.tls) }}
auth.store.ca: is for a rediss:// store, or for tls; auth.store.url is {{ $store.url | default "empty" }}
{{- end }}
{{- if and $store.clientCertificate.secret (not $model.tls) }}
auth.store.clientCertificate: is for a rediss:// store, or for tls; auth.store.url is {{ $store.url | default "empty" }}
{{- end }}
{{- end }}

{{/* Clients' metadata documents. Argument: the chart's context. */}}
{{- define "keystile.check.documents" -}}
{{- $ca := .Values.auth.metadataDocuments.ca }}
{{- if and $ca.secret $ca.configMap }}
auth.metadataDocuments.ca: name a secret or a configMap, not both
{{- end }}
{{- end }}

{{/* The way in. Argument: the chart's context. */}}
{{- define "keystile.check.network" -}}
{{- $host := (urlParse (.Values.issuer | default "https://issuer.invalid")).hostname -}}
{{- if and (ne .Values.topology "external") (or .Values.network.ingress.enabled .Values.network.gateway.enabled) (or (contains ":" $host) (regexMatch "^[0-9.]+$" $host)) }}
network: {{ $host }} in issuer is an address; an Ingress or HTTPRoute needs a host name there
{{- end }}
{{- if and .Values.network.gateway.enabled (not .Values.network.gateway.parentRefs) }}
network.gateway.parentRefs: name the Gateway, such as --set network.gateway.parentRefs[0].name=public
{{- end }}
{{- end }}

{{/* TLS inside the cluster. Argument: dict root, servers (resolved). */}}
{{- define "keystile.check.tls" -}}
{{- $tls := .root.Values.network.tls -}}
{{- $served := or (include "keystile.tls.any" .root) $tls.valkeySecret -}}
{{- $known := or $tls.ca.secret $tls.ca.configMap -}}
{{- if and $tls.ca.secret $tls.ca.configMap }}
network.tls.ca: name a secret or a configMap, not both
{{- else if and $served (not $known) }}
network.tls.ca: name the secret or configMap with the authority of these certificates, such as --set network.tls.ca.secret=keystile-ca
{{- else if and $known (not $served) }}
network.tls.ca: is for authSecret, serverSecrets and valkeySecret, which are empty; auth.store.ca is for a store elsewhere
{{- end }}
{{- if and $tls.valkeySecret (not (include "keystile.store" .root | fromYaml).own) }}
network.tls.valkeySecret: is for the release's own Valkey; auth.store names another store
{{- end }}
{{- if and $served .root.Values.network.gateway.enabled (ne $tls.ca.key "ca.crt") }}
network.tls.ca.key: must be ca.crt, which is where a BackendTLSPolicy has it
{{- end }}
{{- $servers := .servers -}}
{{- range $name, $_ := $tls.serverSecrets }}
{{- if not (and (hasKey $servers $name) (get (get $servers $name | default dict) "deploy")) }}
network.tls.serverSecrets.{{ $name }}: is not a server of this release; they are {{ keys $servers | sortAlpha | join ", " }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where audit events and traces go. Argument: the chart's context. */}}
{{- define "keystile.check.observability" -}}
{{- $url := "^https?://[^/@?#\\s]+(/[^?#\\s]*)?$" -}}
{{- $collector := .Values.observability.audit.collector }}
{{- if and $collector.enabled (not (regexMatch $url $collector.otlp_endpoint)) }}
observability.audit.collector.otlp_endpoint: must be an OTLP/HTTP URL such as https://otlp.example.com:4318
{{- end }}
{{- with .Values.observability.traces.otlp_endpoint }}
{{- if not (regexMatch $url .) }}
observability.traces.otlp_endpoint: {{ . }} must be an OTLP/HTTP URL such as https://otlp.example.com:4318
{{- end }}
{{- end }}
{{- end }}

{{/*
One MCP server.
  Argument: dict name, server (resolved, with its uri), model (issuer and the paths of auth), identity (by name).
*/}}
{{- define "keystile.check.server" -}}
{{- $at := printf "servers.%s" .name -}}
{{- $server := .server -}}
{{- if not (or $server.resource $server.host $server.path) }}
{{ $at }}: say where it is: resource (the whole URL), host, or path on the issuer's host
{{- else if and $server.resource (or $server.host $server.path) }}
{{ $at }}: resource is the whole URL; leave host and path away
{{- else }}
{{ include "keystile.check.url" (dict "name" (printf "%s.resource" $at) "url" $server.uri) }}
{{- $path := $server.uriPath }}
{{- if or (not (trimAll "/" $path)) (hasSuffix "/" $path) (contains "//" $path) }}
{{ $at }}.resource: {{ $server.uri }} must have a path without a trailing slash, such as https://mcp.example.com/mcp
{{- end }}
{{- if eq $server.uriHost .model.issuer.host }}
{{- range .model.auth.paths }}
{{- if or (eq $path .path) (and (eq .type "Prefix") (hasPrefix (printf "%s/" .path) $path)) }}
{{ $at }}.resource: {{ $path }} is a path of the authorization server, which has the same host; choose another
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{ include "keystile.check.files" (dict "at" (printf "%s.settings" $at) "files" $server.told.files) }}
{{- if and $server.deploy (include "keystile.acceptsPushes" $server) (ne $server.sessions "shared") (or $server.autoscaling.enabled (gt (int $server.replicas) 1)) }}
{{ $at }}.settings.revocations.push: an event comes to one pod, and the others learn of it by the store that they share; set {{ $at }}.settings.sessions=shared (mcp.sessionStore says where), or {{ $at }}.replicas=1
{{- end }}
{{- $isExternal := eq .model.topology "external" }}
{{- $proofs := len (compact (list $server.secretKey $server.jwks_uri (empty $server.jwks | ternary "" "jwks"))) }}
{{- if $isExternal }}
{{- if not $server.deploy }}
{{ $at }}.deploy: a server that runs elsewhere has nothing here; topology is external
{{- end }}
{{- if not (or $server.resource $server.host) }}
{{ $at }}: say where it is: resource (the whole URL), or host; issuer's host is the provider's
{{- end }}
{{- range list "jwks" "jwks_uri" "access_token" "default_scopes" "user_scopes" }}
{{- if get $server . }}
{{ $at }}.{{ . }}: is for Keystile's own authorization server; topology is external
{{- end }}
{{- end }}
{{- else if and (not $server.deploy) (ne $proofs 1) }}
{{ $at }}: a server that runs elsewhere (deploy: false) needs one of secretKey, jwks and jwks_uri as its proof at /introspect
{{- else if and $server.deploy (or $server.jwks $server.jwks_uri) }}
{{ $at }}.{{ $server.jwks | empty | ternary "jwks_uri" "jwks" }}: only for a server that runs elsewhere (deploy: false)
{{- end }}
{{- if eq .model.topology "separate" }}
{{- $settings := $server.settings | default dict }}
{{- $others := list }}
{{- range list "authorization_server" "provider" "audience" "scope_prefix" "scope_claim" }}
{{- if get $settings . }}{{- $others = append $others . }}{{- end }}
{{- end }}
{{- if dig "revocations" "push" "accept" false $settings }}{{- $others = append $others "revocations.push" }}{{- end }}
{{- range $section := list "introspection" "jwks" }}
{{- range list "url" "client_id" "privateKey" "ca" }}
{{- if dig $section . "" $settings }}{{- $others = append $others (printf "%s.%s" $section .) }}{{- end }}
{{- end }}
{{- end }}
{{- range $others }}
{{ $at }}.settings.{{ . }}: is for an authorization server of others; set topology to external
{{- end }}
{{- if and (eq ($settings.validation | default "") "jwks") (ne ($server.access_token | default "") "jwt") }}
{{ $at }}.access_token: settings.validation is jwks, which needs access_token jwt; opaque tokens are introspected
{{- end }}
{{- end }}
{{- range $who, $granted := $server.user_scopes }}
{{- $identity := splitList "/" $who | first }}
{{- if not (hasKey ($.identity | default (dict "local" true)) $identity) }}
{{ $at }}.user_scopes.{{ $who }}: there is no identity {{ $identity }}; they are {{ keys ($.identity | default (dict "local" true)) | sortAlpha | join ", " }}
{{- end }}
{{- range $granted }}
{{- if not (hasKey $server.scopes .) }}
{{ $at }}.user_scopes.{{ $who }}: {{ . }} is not among its scopes; they are {{ keys $server.scopes | sortAlpha | join ", " }}
{{- end }}
{{- end }}
{{- end }}
{{- range $server.required_scopes }}
{{- if not (hasKey $server.scopes .) }}
{{ $at }}.required_scopes: {{ . }} is not among its scopes; they are {{ keys $server.scopes | sortAlpha | join ", " }}
{{- end }}
{{- end }}
{{- range $server.default_scopes }}
{{- if not (hasKey $server.scopes .) }}
{{ $at }}.default_scopes: {{ . }} is not among its scopes; they are {{ keys $server.scopes | sortAlpha | join ", " }}
{{- end }}
{{- end }}
{{- range $tool, $needed := $server.policy }}
{{- range $needed }}
{{- if not (hasKey $server.scopes .) }}
{{ $at }}.policy.{{ $tool }}: {{ . }} is not among its scopes; they are {{ keys $server.scopes | sortAlpha | join ", " }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* One client that acts for itself. Argument: dict name, client, servers (all, resolved). */}}
{{- define "keystile.check.client" -}}
{{- $at := printf "auth.clients.%s" .name -}}
{{- $client := .client -}}
{{- $servers := .servers -}}
{{- $proofs := len (compact (list $client.secretKey $client.service_account $client.jwks_uri (empty $client.jwks | ternary "" "jwks"))) }}
{{- if ne $proofs 1 }}
{{ $at }}: needs one of service_account, secretKey, jwks and jwks_uri, by which it proves itself
{{- end }}
{{- $offered := list -}}
{{- range $client.servers }}
{{- if hasKey $servers . -}}
{{- $offered = concat $offered (keys (get $servers .).scopes) -}}
{{- else }}
{{ $at }}.servers: {{ . }} is not among servers; they are {{ keys $servers | sortAlpha | join ", " }}
{{- end }}
{{- end }}
{{- range $client.scopes }}
{{- if and $offered (not (has . $offered)) }}
{{ $at }}.scopes: {{ . }} is not a scope of its servers; they are {{ $offered | uniq | sortAlpha | join ", " }}
{{- end }}
{{- end }}
{{- end }}
