{{- define "connector.name" -}}
{{- if contains .Chart.Name .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "connector.labels" -}}
{{ include "connector.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "connector.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "connector.image" -}}
{{- $repository := required "image.repository: where did you push the image of deploy/Dockerfile?" .Values.image.repository -}}
{{- if .Values.image.digest -}}{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{- end -}}
{{- end -}}

{{- define "connector.config" -}}
{{- if and (gt (int .Values.replicas) 1) (ne .Values.identity.mode "token") -}}
{{- fail (printf "replicas: all pods have one identity in mode %q, and the gateway takes one connector of a name; say replicas: 1 and install the chart twice, or use mode token" .Values.identity.mode) -}}
{{- end -}}
{{- $identity := dict "mode" .Values.identity.mode "gateway_ca_file" "/etc/trailgate/ca.pem" -}}
{{- if eq .Values.identity.mode "gcp" -}}
{{- $_ := set $identity "audience" (required "identity.audience: what connectors.issuers at the gateway expects" .Values.identity.audience) -}}
{{- else if eq .Values.identity.mode "token" -}}
{{- $_ := required "identity.audience: what connectors.issuers at the gateway expects" .Values.identity.audience -}}
{{- $_ := set $identity "token_file" "/etc/trailgate/identity/token" -}}
{{- else -}}
{{- $_ := required "identity.certificateSecret: name the Secret with the connector's certificate" .Values.identity.certificateSecret -}}
{{- $_ := set $identity "cert_file" "/etc/trailgate/identity/tls.crt" -}}
{{- $_ := set $identity "key_file" "/etc/trailgate/identity/tls.key" -}}
{{- end -}}
{{- $set := dict "gateway" (required "gateway: host:port of the gateway's connectors.listen" .Values.gateway) "identity" $identity "health" ":8473" -}}
{{- $config := mergeOverwrite (dict "log" (dict "format" "json")) (deepCopy .Values.config) $set -}}
{{- if not $config.connections -}}
{{- fail "config.connections: none; name the connections that the connectors serve" -}}
{{- end -}}
{{ toYaml $config }}
{{- end -}}
