{{/*
The release, worked out once: every URL taken apart, every MCP server with its defaults. Each template begins with it,
so nothing is rendered from values that cannot be right; all problems are said at once.

  topology
  issuer:  {url, host, path}
  auth:    {name, component, server (the last two as of keystile.scheme: whose pod it is in), port, paths: [{path, type}],
           address, introspection, jwks (all three as pods reach them), identities (whether anyone proves itself by a
           service account), testClient (whether helm test gets a token), identity (how people sign in)}; of an external
           one there are no paths, and no address
  store:   {own, inPod (both: whether it is the release's), tls, ca, password, settings, ports}
  servers: {name: the entry of `servers` over `mcp`, with uri, uriHost, uriPath, isReference, fullname, identity, issuer,
           metadataPaths, pushPaths (where issuers push security events, if any may), sessions, told (its settings, as of keystile.told)}
  sessionStore: {own, url, username, ca, port}, or {} where there is none
*/}}
{{- define "keystile.model" -}}
{{- $root := . -}}
{{- $topology := .Values.topology -}}
{{- $url := urlParse (.Values.issuer | default "https://issuer.invalid") -}}
{{- $issuer := dict "url" .Values.issuer "host" $url.hostname "path" (trimSuffix "/" $url.path) -}}
{{- $entries := .Values.servers -}}
{{- if and .Values.resource (not $entries) }}{{- $entries = dict "mcp" (dict "resource" .Values.resource) }}{{- end -}}
{{- $auth := dict "name" (printf "%s-auth" .Release.Name) "component" "auth" "server" "" "port" 3001 "paths" list -}}
{{- if eq $topology "embedded" -}}
{{- $own := include "keystile.embeddedServer" (dict "entries" $entries) -}}
{{- $auth = merge (dict "name" (printf "%s-%s" .Release.Name $own) "component" "mcp" "server" $own "port" 3232) $auth -}}
{{- end -}}
{{- if ne $topology "external" -}}
{{- $_ := set $auth "paths" (include "keystile.auth.paths" (dict "prefix" $issuer.path "introspection" .Values.network.publicIntrospection) | fromYamlArray) -}}
{{- $_ := set $auth "address" (include "keystile.address" (dict "root" . "component" $auth.component "server" $auth.server "name" $auth.name "port" $auth.port)) -}}
{{- $_ := set $auth "introspection" (printf "%s%s/introspect" $auth.address $issuer.path) -}}
{{- $_ := set $auth "jwks" (printf "%s%s/jwks" $auth.address $issuer.path) -}}
{{- end -}}
{{- $_ := set $auth "identity" (include "keystile.identities" . | fromYaml) -}}
{{- $model := dict "topology" $topology "issuer" $issuer "auth" $auth "store" (include "keystile.store" . | fromYaml) "sessionStore" (include "keystile.sessionStore" . | fromYaml | default dict) -}}

{{- $problems := list
      (include "keystile.check.issuer" .)
      (include "keystile.check.topology" .)
      (include "keystile.check.secret" .)
      (include "keystile.check.release" .)
      (include "keystile.check.store" .)
      (include "keystile.check.documents" .)
      (include "keystile.check.identities" (dict "root" . "told" $auth.identity))
      (include "keystile.check.network" .)
      (include "keystile.check.observability" .) -}}

{{- if and .Values.resource .Values.servers -}}
{{- $problems = append $problems "resource: is short for servers.mcp.resource; give resource or servers, not both" -}}
{{- else if not $entries -}}
{{- $problems = append $problems "resource: is required (or servers, for more than one): the URL of the MCP server, such as --set resource=https://mcp.example.com/mcp" -}}
{{- end -}}

{{- $servers := dict -}}
{{- $seen := dict -}}
{{- range $name, $entry := $entries -}}
{{- $server := include "keystile.server" (dict "root" $root "name" $name "entry" ($entry | default dict) "issuer" $issuer) | fromYaml -}}
{{- $problems = append $problems (include "keystile.check.server" (dict "name" $name "server" $server "model" $model "identity" $root.Values.auth.identity)) -}}
{{- $same := $server.uri | trimSuffix "/" | lower -}}
{{- if hasKey $seen $same -}}
{{- $problems = append $problems (printf "servers.%s.resource: %s is also that of servers.%s; each needs one of its own" $name $server.uri (get $seen $same)) -}}
{{- end -}}
{{- $_ := set $seen $same $name -}}
{{- if $server.identity -}}{{- $_ := set $auth "identities" true -}}{{- end -}}
{{- if and $server.deploy $root.Values.auth.testClient (ne $topology "external") -}}{{- $_ := set $auth "testClient" true -}}{{- end -}}
{{- $_ := set $servers $name $server -}}
{{- end -}}

{{- $problems = append $problems (include "keystile.check.tls" (dict "root" . "servers" $servers)) -}}
{{- if eq $topology "embedded" -}}
{{- $problems = append $problems (include "keystile.check.embedded" (dict "root" . "model" $model "servers" $servers)) -}}
{{- end -}}
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
{{- $_ := set $server "pushPaths" (include "keystile.acceptsPushes" $server | empty | ternary list (list (printf "/events/push%s" $server.uriPath))) -}}
{{- end -}}
{{- $_ := set $model "servers" $servers -}}
{{/* With an external authorization server Valkey is for shared sessions alone. */}}
{{- if and (eq $topology "external") (not (and $model.sessionStore.own (include "keystile.sharesSessions" $model))) -}}
{{- $_ := set $model.store "own" false -}}
{{- end -}}
{{- toYaml $model -}}
{{- end }}

{{/*
One MCP server: its entry over the defaults in `mcp`.
  Argument: dict root, name, entry, issuer.
*/}}
{{- define "keystile.server" -}}
{{- $entry := .entry -}}
{{- $topology := .root.Values.topology -}}
{{- $defaults := omit .root.Values.mcp "embedded" -}}
{{- if eq $topology "embedded" -}}
{{- $defaults = merge (pick .root.Values.mcp.embedded "image" "replicas" "resources") $defaults -}}
{{- end -}}
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
{{- $several := $store.url | empty | ternary "none" "shared" -}}
{{/* The release's own Valkey is there for nothing else, or not there: whoever wants it says so. */}}
{{- if or (eq $topology "embedded") (and (eq $topology "external") $store.own) }}{{- $several = "none" }}{{- end -}}
{{- $sessions = $one | ternary "process" $several -}}
{{- end -}}
{{- $_ := set $server "sessions" $sessions -}}
{{/* How it proves itself at /introspect: by its pod's service account, unless it has a secret or keys. */}}
{{- $_ := set $server "issuer" (dig "authorization_server" .issuer.url ($server.settings | default dict)) -}}
{{- $_ := set $server "told" (include "keystile.told" (dict "value" ($server.settings | default dict) "path" "") | fromYaml) -}}
{{- $isOwn := and (eq $topology "embedded") $server.deploy -}}
{{- if and (ne $topology "external") (not $isOwn) (not (or $entry.secretKey $entry.jwks $entry.jwks_uri)) -}}
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
{{- $isEmbedded := eq .Values.topology "embedded" -}}
{{- $named := not (empty (or $store.url $nodes)) -}}
{{- $own := and (not $named) (not $isEmbedded) -}}
{{- $ownTls := and $own .Values.network.tls.valkeySecret -}}
{{- $ca := dict -}}
{{- if $ownTls }}{{- $ca = .Values.network.tls.ca -}}{{- else if not $own }}{{- $ca = $store.ca -}}{{- end -}}
{{- if $store.sentinels -}}
{{- $settings = dict "sentinels" $store.sentinels "sentinel_master" $store.sentinel_master -}}
{{- with $store.sentinel_username }}{{- $_ := set $settings "sentinel_username" . -}}{{- end -}}
{{- else if $store.cluster -}}
{{- $_ := set $settings "cluster" $store.cluster -}}
{{- else if or $store.url $own -}}
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
{{- else if $settings.url -}}
{{- $authority := regexReplaceAll "^rediss?://([^/]*).*$" $settings.url "${1}" -}}
{{- $ports = list (regexFind ":[0-9]+$" $authority | trimPrefix ":" | default "6379") -}}
{{- end -}}
own: {{ $own }}
inPod: {{ and $isEmbedded (not $named) }}
{{- if and (or $own $named) (ne .Values.topology "external") }}
password: {{ $store.passwordKey | quote }}
{{- end }}
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
{{- if eq .Values.topology "embedded" -}}
{{- else if $store.url -}}
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

{{/* Something if values ask for such sessions in so many words. Argument: the chart's context. */}}
{{- define "keystile.asksForSharedSessions" -}}
{{- range append (values .Values.servers) .Values.mcp -}}
{{- if eq (dig "settings" "sessions" "" (. | default dict)) "shared" -}}yes{{- end -}}
{{- end -}}
{{- if .Values.mcp.sessionStore.url -}}yes{{- end -}}
{{- end }}

{{/* Something if an issuer may push security events to this server (RFC 8935). Argument: the server (resolved). */}}
{{- define "keystile.acceptsPushes" -}}
{{- $settings := .settings | default dict -}}
{{- range append (dig "trusted_issuers" list $settings) $settings -}}
{{- if dig "revocations" "push" "accept" false . -}}yes{{- end -}}
{{- end -}}
{{- end }}

{{/* The name of the one server of the topology embedded; the first one's if there are more. Argument: dict entries. */}}
{{- define "keystile.embeddedServer" -}}
{{- $names := list -}}
{{- range $name, $entry := .entries -}}
{{- if dig "deploy" true ($entry | default dict) }}{{- $names = append $names $name -}}{{- end -}}
{{- end -}}
{{- $names | sortAlpha | first | default "mcp" -}}
{{- end }}

{{/* Something if a server of this release has sessions that its pods share. Argument: the model. */}}
{{- define "keystile.sharesSessions" -}}
{{- range .servers -}}{{- if and .deploy (eq .sessions "shared") -}}yes{{- end -}}{{- end -}}
{{- end }}

{{/*
Every path of the authorization server that the public may ask for; /healthz and /readyz are none, and /introspect and
/events/poll only if they shall be. A path that is not here does not leave the cluster.
  Argument: dict prefix (the issuer's path), introspection (whether both are public).
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
{{- range list "authorize" "jwks" "revoke" "token" }}
- {path: {{ printf "%s/%s" $prefix . | quote }}, type: Exact}
{{- end }}
{{- range list "account" "consent" "login" "register" "saml" "static" }}
- {path: {{ printf "%s/%s" $prefix . | quote }}, type: Prefix}
{{- end }}
{{- if .introspection }}
- {path: {{ printf "%s/events/poll" $prefix | quote }}, type: Exact}
- {path: {{ printf "%s/introspect" $prefix | quote }}, type: Exact}
{{- end }}
{{- end }}

{{/* The port that a URL names or means. Argument: the URL. */}}
{{- define "keystile.port" -}}
{{- $url := urlParse . -}}
{{- $usual := dict "https" "443" "http" "80" "ldap" "389" "ldaps" "636" -}}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (get $usual $url.scheme) -}}
{{- end }}
