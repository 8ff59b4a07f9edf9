{{/* What every pod of the authorization server's image reads: its settings, its secrets, what it needs for the store. */}}

{{/* Argument: the chart's context. */}}
{{- define "keystile.auth.mounts" -}}
- name: settings
  mountPath: /etc/keystile/settings
  readOnly: true
- name: secrets
  mountPath: /var/run/secrets/keystile
  readOnly: true
{{- if (include "keystile.store" . | fromYaml).ca }}
- name: store-ca
  mountPath: /etc/keystile/store-ca
  readOnly: true
{{- end }}
{{- if .Values.auth.store.clientCertificate.secret }}
- name: store-certificate
  mountPath: /etc/keystile/store-certificate
  readOnly: true
{{- end }}
{{- with include "keystile.files.mount" (include "keystile.identities" . | fromYaml).files }}
{{ . }}
{{- end }}
{{- with include "keystile.auditMount" . | trim }}
{{ . }}
{{- end }}
- name: tmp
  mountPath: /tmp
{{- end }}

{{/* What only the server itself needs, and not its commands. Argument: dict root, model. */}}
{{- define "keystile.auth.serverMounts" -}}
{{- $documents := .root.Values.auth.metadataDocuments.ca -}}
{{- if .model.auth.identities }}
- name: kubernetes
  mountPath: /var/run/secrets/kubernetes
  readOnly: true
{{- end }}
{{- if or $documents.secret $documents.configMap }}
- name: document-ca
  mountPath: /etc/keystile/document-ca
  readOnly: true
{{- end }}
{{- end }}

{{/* Argument: dict root, model. */}}
{{- define "keystile.auth.serverVolumes" -}}
{{- if .model.auth.identities }}
# To ask the API server for its issuer and keys, which every service account may read.
- name: kubernetes
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items:
            - {key: ca.crt, path: ca.crt}
{{- end }}
{{- with .root.Values.auth.metadataDocuments.ca }}
{{- if or .secret .configMap }}
{{ include "keystile.ca.volume" (dict "name" "document-ca" "ca" .) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Argument: dict root, model. */}}
{{- define "keystile.auth.volumes" -}}
{{- $root := .root -}}
{{- $auth := $root.Values.auth -}}
{{- $secretKeys := dict "master_key" "master-key" -}}
{{- with .model.store.password }}{{- $_ := set $secretKeys "store__password" . -}}{{- end -}}
{{- with $auth.store.sentinelPasswordKey }}{{- $_ := set $secretKeys "store__sentinel_password" . -}}{{- end -}}
{{- $secretKeys = merge $secretKeys (.model.auth.identity.secrets | default dict) -}}
{{- range $name, $server := .model.servers -}}
{{- if $server.secretKey -}}
{{- $_ := set $secretKeys (printf "resources__%s__secret" $name) $server.secretKey -}}
{{- end -}}
{{- end -}}
{{- range $name, $client := $auth.clients -}}
{{- with $client.secretKey }}{{- $_ := set $secretKeys (printf "clients__%s__secret" $name) . -}}{{- end -}}
{{- end -}}
{{- if eq .model.topology "embedded" -}}
{{- with (get .model.servers .model.auth.server).upstream -}}
{{- with .bearerKey }}{{- $_ := set $secretKeys "upstream__bearer" . -}}{{- end -}}
{{- end -}}
{{- end -}}
- name: settings
  configMap:
    name: {{ .model.auth.name }}
- name: secrets
  secret:
    secretName: {{ $root.Values.existingSecret }}
    defaultMode: 0440
    # A file is a setting by its name; other keys of the Secret stay out.
    items:
      {{- range $file, $key := $secretKeys }}
      - {key: {{ $key }}, path: {{ $file }}}
      {{- end }}
{{- with .model.store.ca }}
{{ include "keystile.ca.volume" (dict "name" "store-ca" "ca" .) }}
{{- end }}
{{- with $auth.store.clientCertificate.secret }}
- name: store-certificate
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
{{- end }}
{{- with include "keystile.files.volume" (.model.auth.identity.files | default dict) }}
{{ . }}
{{- end }}
{{- with include "keystile.auditVolumes" $root | trim }}
{{ . }}
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- end }}
