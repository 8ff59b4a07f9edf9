{{/*
The release, worked out once: every URL taken apart, every MCP server with its defaults. Each template begins with it,
so nothing is rendered from values that cannot be right; all problems are said at once.

  issuer:  {url, host, path}
  auth:    {name, paths: [{path, type}], address, introspection, jwks (all three as pods reach them), identities (whether
           anyone proves itself by a service account), testClient (whether helm test gets a token)}
  store:   {own, tls, ca, settings, ports}
  servers: {name: the entry of `servers` over `mcp`, with uri, uriHost, uriPath, isReference, fullname, identity,
           metadataPaths, sessions}
  sessionStore: {own, url, username, ca, port}, or {} where there is none
*/}}
{{- define "keystile.model" -}}
{{- $root := . -}}
{{- $url := urlParse (.Values.issuer | default "https://issuer.invalid") -}}
{{- $issuer := dict "url" .Values.issuer "host" $url.hostname "path" (trimSuffix "/" $url.path) -}}
{{- $auth := dict
      "name" (printf "%s-auth" .Release.Name)
      "paths" (include "keystile.auth.paths" (dict "prefix" $issuer.path "introspection" .Values.network.publicIntrospection) | fromYamlArray)
      "address" (include "keystile.address" (dict "root" . "component" "auth" "name" (printf "%s-auth" .Release.Name) "port" 3001)) -}}
{{- $_ := set $auth "introspection" (printf "%s%s/introspect" $auth.address $issuer.path) -}}
{{- $_ := set $auth "jwks" (printf "%s%s/jwks" $auth.address $issuer.path) -}}
{{- $model := dict "issuer" $issuer "auth" $auth "store" (include "keystile.store" . | fromYaml) "sessionStore" (include "keystile.sessionStore" . | fromYaml | default dict) -}}

{{- $problems := list
      (include "keystile.check.issuer" .)
      (include "keystile.check.secret" .)
      (include "keystile.check.release" .)
      (include "keystile.check.store" .)
      (include "keystile.check.documents" .)
      (include "keystile.check.network" .)
      (include "keystile.check.observability" .) -}}

{{- $entries := .Values.servers -}}
{{- if and .Values.resource $entries -}}
{{- $problems = append $problems "resource: is short for servers.mcp.resource; give resource or servers, not both" -}}
{{- else if .Values.resource -}}
{{- $entries = dict "mcp" (dict "resource" .Values.resource) -}}
{{- else if not $entries -}}
{{- $problems = append $problems "resource: is required (or servers, for more than one): the URL of the MCP server, such as --set resource=https://mcp.example.com/mcp" -}}
{{- end -}}

{{- $servers := dict -}}
{{- $seen := dict -}}
{{- range $name, $entry := $entries -}}
{{- $server := include "keystile.server" (dict "root" $root "name" $name "entry" ($entry | default dict) "issuer" $issuer) | fromYaml -}}
{{- $problems = append $problems (include "keystile.check.server" (dict "name" $name "server" $server "model" $model)) -}}
{{- $same := $server.uri | trimSuffix "/" | lower -}}
{{- if hasKey $seen $same -}}
{{- $problems = append $problems (printf "servers.%s.resource: %s is also that of servers.%s; each needs one of its own" $name $server.uri (get $seen $same)) -}}
{{- end -}}
{{- $_ := set $seen $same $name -}}
{{- if $server.identity -}}{{- $_ := set $auth "identities" true -}}{{- end -}}
{{- if and $server.deploy $root.Values.auth.testClient -}}{{- $_ := set $auth "testClient" true -}}{{- end -}}
{{- $_ := set $servers $name $server -}}
{{- end -}}

{{- $problems = append $problems (include "keystile.check.tls" (dict "root" . "servers" $servers)) -}}
{{- range $name, $client := .Values.auth.clients -}}
{{- $problems = append $problems (include "keystile.check.client" (dict "name" $name "client" $client "servers" $servers)) -}}
{{- if $client.service_account -}}{{- $_ := set $auth "identities" true -}}{{- end -}}
{{- end -}}
{{- if $auth.testClient -}}{{- $_ := set $auth "identities" true -}}{{- end -}}

{{- $lines := list -}}
{{- range splitList "\n" (join "\n" $problems) -}}
{{- if trim . -}}{{- $lines = append $lines . -}}{{- end -}}
{{- end -}}
{{- if $lines -}}
{{- fail (printf "these values cannot be used:\n\n%s\n" (join "\n" $lines)) -}}
{{- end -}}

{{/* RFC 9728 section 3.1 puts the well-known part before the path. Clients that forget the path ask at the host's
     root, which one server alone can answer. */}}
{{- range $name, $server := $servers -}}
{{- $others := 0 -}}
{{- range $servers -}}{{- if eq .uriHost $server.uriHost -}}{{- $others = add1 $others -}}{{- end -}}{{- end -}}
{{- $paths := list (printf "/.well-known/oauth-protected-resource%s" $server.uriPath) -}}
{{- if eq (int $others) 1 -}}{{- $paths = append $paths "/.well-known/oauth-protected-resource" -}}{{- end -}}
{{- $_ := set $server "metadataPaths" $paths -}}
{{- end -}}
{{- $_ := set $model "servers" $servers -}}
{{- toYaml $model -}}
{{- end }}

{{/*
One MCP server: its entry over the defaults in `mcp`.
  Argument: dict root, name, entry, issuer.
*/}}
{{- define "keystile.server" -}}
{{- $entry := .entry -}}
{{- $defaults := .root.Values.mcp -}}
{{- $server := include "keystile.over" (dict "base" $defaults "over" $entry) | fromYaml -}}
{{/* A map of quantities or scopes is meant as a whole: half of one and half of the other is nobody's wish. */}}
{{- $_ := set $server "resources" ($entry.resources | default $defaults.resources) -}}
{{- $_ := set $server "isReference" (and (not $entry.scopes) (not $entry.image)) -}}
{{- if not $entry.scopes -}}
{{- $reference := include "keystile.referenceServer" . | fromYaml -}}
{{- $_ := set $server "scopes" $reference.scopes -}}
{{- $_ := set $server "required_scopes" (hasKey $entry "required_scopes" | ternary $entry.required_scopes $reference.required_scopes) -}}
{{- $_ := set $server "policy" (hasKey $entry "policy" | ternary $entry.policy $reference.policy) -}}
{{- end -}}
{{- $_ := set $server "required_scopes" ($server.required_scopes | default list) -}}
{{- $_ := set $server "policy" ($server.policy | default dict) -}}
{{- $_ := set $server "title" ($entry.title | default (eq .name "mcp" | ternary "MCP server" (printf "MCP server %s" .name))) -}}
{{- $_ := set $server "deploy" (hasKey $entry "deploy" | ternary $entry.deploy true) -}}
{{- $_ := set $server "egress" ($entry.egress | default list) -}}
{{- $origin := regexFind "^[a-z]+://[^/]*" (.issuer.url | default "https://issuer.invalid") -}}
{{- with $entry.host }}{{- $origin = printf "https://%s" . -}}{{- end -}}
{{- $uri := $entry.resource | default (printf "%s%s" $origin ($entry.path | default "/mcp")) -}}
{{- $url := urlParse (regexMatch "^https?://[^\\s]+$" $uri | ternary $uri "https://resource.invalid/mcp") -}}
{{- $_ := set $server "uri" $uri -}}
{{- $_ := set $server "uriHost" $url.hostname -}}
{{- $_ := set $server "uriPath" $url.path -}}
{{- $_ := set $server "fullname" (printf "%s-%s" .root.Release.Name .name) -}}
{{/* Sessions of the older revisions: with several pods they need a store that the pods find them by. */}}
{{- $sessions := ($server.settings | default dict).sessions -}}
{{- if not $sessions -}}
{{- $one := and (eq (int $server.replicas) 1) (not $server.autoscaling.enabled) -}}
{{- $store := include "keystile.sessionStore" .root | fromYaml -}}
{{- $sessions = $one | ternary "process" ($store.url | empty | ternary "none" "shared") -}}
{{- end -}}
{{- $_ := set $server "sessions" $sessions -}}
{{/* How it proves itself at /introspect: by its pod's service account, unless it has a secret or keys. */}}
{{- if not (or $entry.secretKey $entry.jwks $entry.jwks_uri) -}}
{{- $_ := set $server "identity" (printf "%s/%s-%s" .root.Release.Namespace .root.Release.Name .name) -}}
{{- end -}}
{{- toYaml $server -}}
{{- end }}

{{/* One map over another, key by key. Sprig's mergeOverwrite would not let false or 0 win. Argument: dict base, over. */}}
{{- define "keystile.over" -}}
{{- $result := deepCopy .base -}}
{{- range $key, $value := .over -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $result $key)) -}}
{{- $value = include "keystile.over" (dict "base" (get $result $key) "over" $value) | fromYaml -}}
{{- end -}}
{{- $_ := set $result $key $value -}}
{{- end -}}
{{- toYaml $result -}}
{{- end }}

{{/* Scopes and policy of the reference server that the MCP image holds; the service's own defaults, which auth too
     has to know. */}}
{{- define "keystile.referenceServer" -}}
scopes:
  mcp:basic: "Use the basic tools: echo, add, who am I"
  mcp:jobs: Start long-running jobs
required_scopes: [mcp:basic]
policy:
  long_running: [mcp:jobs]
{{- end }}

{{/*
The store as auth reaches it: whether it is the release's own, whether over TLS, the settings that lead to it, and every
port that auth connects to. Argument: the chart's context.
*/}}
{{- define "keystile.store" -}}
{{- $store := .Values.auth.store -}}
{{- $settings := dict -}}
{{- $nodes := concat $store.sentinels $store.cluster -}}
{{- $own := not (or $store.url $nodes) -}}
{{- $ownTls := and $own .Values.network.tls.valkeySecret -}}
{{- $ca := dict -}}
{{- if $ownTls }}{{- $ca = .Values.network.tls.ca -}}{{- else if not $own }}{{- $ca = $store.ca -}}{{- end -}}
{{- if $store.sentinels -}}
{{- $settings = dict "sentinels" $store.sentinels "sentinel_master" $store.sentinel_master -}}
{{- with $store.sentinel_username }}{{- $_ := set $settings "sentinel_username" . -}}{{- end -}}
{{- else if $store.cluster -}}
{{- $_ := set $settings "cluster" $store.cluster -}}
{{- else -}}
{{- $valkey := printf "redis://%s-valkey:6379/0" .Release.Name -}}
{{- if $ownTls }}{{- $valkey = printf "rediss://%s-valkey.%s.svc:6379/0" .Release.Name .Release.Namespace -}}{{- end -}}
{{- $_ := set $settings "url" ($store.url | default $valkey) -}}
{{- end -}}
{{- if and $nodes $store.tls }}{{- $_ := set $settings "tls" true -}}{{- end -}}
{{- with $store.username }}{{- $_ := set $settings "username" . -}}{{- end -}}
{{- if or $ca.secret $ca.configMap -}}
{{- $_ := set $settings "ca_file" "/etc/keystile/store-ca/ca.crt" -}}
{{- end -}}
{{- if $store.clientCertificate.secret -}}
{{- $_ := set $settings "certificate_file" "/etc/keystile/store-certificate/tls.crt" -}}
{{- $_ := set $settings "key_file" "/etc/keystile/store-certificate/tls.key" -}}
{{- end -}}
{{- $ports := list -}}
{{- range $nodes }}{{- $ports = append $ports (regexFind "[0-9]+$" .) -}}{{- end -}}
{{- if $store.sentinels -}}
{{- $ports = append $ports (toString $store.sentinelServerPort) -}}
{{- else if not $nodes -}}
{{- $authority := regexReplaceAll "^rediss?://([^/]*).*$" $settings.url "${1}" -}}
{{- $ports = list (regexFind ":[0-9]+$" $authority | trimPrefix ":" | default "6379") -}}
{{- end -}}
own: {{ $own }}
tls: {{ if $nodes }}{{ $store.tls }}{{ else }}{{ hasPrefix "rediss://" $store.url }}{{ end }}
{{- if or $ca.secret $ca.configMap }}
ca: {{ toJson $ca }}
{{- end }}
settings: {{ $settings | toJson }}
ports: [{{ $ports | uniq | join ", " }}]
{{- end }}

{{/*
Where the MCP servers' pods find each other's sessions: the release's own Valkey, as a user who sees nothing else there,
or another store. Argument: the chart's context.
*/}}
{{- define "keystile.sessionStore" -}}
{{- $store := .Values.mcp.sessionStore -}}
{{- $auth := include "keystile.store" . | fromYaml -}}
{{- if $store.url -}}
own: false
url: {{ $store.url }}
username: {{ $store.username | quote }}
{{- if or $store.ca.secret $store.ca.configMap }}
ca: {{ toJson $store.ca }}
{{- end }}
port: {{ regexReplaceAll "^rediss?://([^/]*).*$" $store.url "${1}" | regexFind ":[0-9]+$" | trimPrefix ":" | default "6379" }}
{{- else if and $auth.own $store.passwordKey -}}
own: true
url: {{ $auth.settings.url }}
username: mcp
{{- with $auth.ca }}
ca: {{ toJson . }}
{{- end }}
port: 6379
{{- end }}
{{- end }}

{{/* Something if a server of this release has sessions that its pods share. Argument: the model. */}}
{{- define "keystile.sharesSessions" -}}
{{- range .servers -}}{{- if and .deploy (eq .sessions "shared") -}}yes{{- end -}}{{- end -}}
{{- end }}

{{/*
Every path of the authorization server that the public may ask for; /healthz and /readyz are none, and /introspect only
if it shall be. A path that is not here does not leave the cluster.
  Argument: dict prefix (the issuer's path), introspection (whether it is public).
*/}}
{{- define "keystile.auth.paths" -}}
{{- $prefix := .prefix -}}
{{- range list "oauth-authorization-server" "openid-configuration" }}
- {path: {{ printf "/.well-known/%s%s" . $prefix | quote }}, type: Exact}
{{- if $prefix }}
- {path: {{ printf "%s/.well-known/%s" $prefix . | quote }}, type: Exact}
{{- end }}
{{- end }}
- {path: {{ printf "%s/" $prefix | quote }}, type: Exact}
{{- range list "authorize" "jwks" "login" "revoke" "token" }}
- {path: {{ printf "%s/%s" $prefix . | quote }}, type: Exact}
{{- end }}
{{- range list "account" "consent" "register" "saml" "static" }}
- {path: {{ printf "%s/%s" $prefix . | quote }}, type: Prefix}
{{- end }}
{{- if .introspection }}
- {path: {{ printf "%s/introspect" $prefix | quote }}, type: Exact}
{{- end }}
{{- end }}

{{/* The port that a URL names or means. Argument: the URL. */}}
{{- define "keystile.port" -}}
{{- $url := urlParse . -}}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (eq $url.scheme "https" | ternary "443" "80") -}}
{{- end }}
