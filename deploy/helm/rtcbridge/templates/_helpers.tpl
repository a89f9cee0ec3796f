{{- define "rtcbridge.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "rtcbridge.selector" -}}
app.kubernetes.io/name: rtcbridge
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "rtcbridge.labels" -}}
{{ include "rtcbridge.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "rtcbridge.secret" -}}
{{- if .Values.secrets.existing -}}
{{ .Values.secrets.existing }}
{{- else -}}
{{- range $name := list "RTCBRIDGE_STORE__URL" "RTCBRIDGE_ENGINE__URL" -}}
{{- if not (hasKey $.Values.secrets.env $name) -}}
{{- fail (printf "secrets.env.%s is missing: several bridges share a store and an engine" $name) -}}
{{- end -}}
{{- end -}}
{{ include "rtcbridge.name" . }}
{{- end -}}
{{- end -}}
