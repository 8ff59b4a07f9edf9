{{/* The collector's settings. Argument: the chart's context. */}}
{{- define "keystile.collector.settings" -}}
{{- $collector := .Values.observability.audit.collector -}}
extensions:
  health_check:
    endpoint: 0.0.0.0:13133
  file_storage:
    directory: /var/lib/keystile/audit/collector
    create_directory: true
receivers:
  file_log:
    include: [/var/lib/keystile/audit/audit.jsonl]
    # Events from before the collector's first start count too; where it stopped is in its storage.
    start_at: beginning
    storage: file_storage
    # What the pipeline refuses for want of memory is read again.
    retry_on_failure:
      enabled: true
      max_elapsed_time: 0s
    operators:
      # The line stays as it was written: keystile audit verify checks the chain byte by byte.
      - type: json_parser
        parse_to: attributes
        timestamp:
          parse_from: attributes.time
          layout_type: gotime
          layout: "2006-01-02T15:04:05.999999999Z07:00"
processors:
  memory_limiter:
    check_interval: 1s
    limit_percentage: 75
    spike_limit_percentage: 20
  resource:
    attributes:
      - {key: service.name, value: "${env:SERVICE_NAME}", action: upsert}
      - {key: service.instance.id, value: "${env:POD_NAME}", action: upsert}
      - {key: k8s.pod.name, value: "${env:POD_NAME}", action: upsert}
      - {key: k8s.namespace.name, value: "${env:POD_NAMESPACE}", action: upsert}
exporters:
  otlp_http:
    endpoint: {{ $collector.otlp_endpoint | quote }}
    {{- if $collector.authorizationKey }}
    headers:
      Authorization: "${env:OTLP_AUTHORIZATION}"
    {{- end }}
    # No queue: the file is one. An event counts as read only when it has arrived, so that a collector that is killed
    # begins again with it, in order; a queue would put what was on its way behind all that came later.
    sending_queue:
      enabled: false
    # For as long as it takes: nothing is given up.
    retry_on_failure:
      max_elapsed_time: 0s
service:
  extensions: [health_check, file_storage]
  telemetry:
    metrics:
      level: none
  pipelines:
    logs:
      receivers: [file_log]
      processors: [memory_limiter, resource]
      exporters: [otlp_http]
{{- end }}
