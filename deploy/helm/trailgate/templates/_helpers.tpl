{{- define "trailgate.name" -}}
{{- if contains .Chart.Name .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "trailgate.labels" -}}
{{ include "trailgate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "trailgate.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "trailgate.image" -}}
{{- $repository := required "image.repository: where did you push the image of deploy/Dockerfile?" .Values.image.repository -}}
{{- if .Values.image.digest -}}{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{- end -}}
{{- end -}}

{{- define "trailgate.claim" -}}
{{ .Values.persistence.existingClaim | default (printf "%s-data" (include "trailgate.name" .)) }}
{{- end -}}

{{- define "trailgate.id" -}}
{{ required "id: name this gateway and its log, for good" .Values.id }}
{{- end -}}

{{/* What a container may do: nothing beyond its volume. */}}
{{- define "trailgate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* fsGroup opens an empty volume to the gateway's user, once. With "Always" each start would open the log's key to
     the group, and the gateway would refuse its own admin token. */}}
{{- define "trailgate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The configuration: what the user wrote, and what follows from the chart's own values. */}}
{{- define "trailgate.config" -}}
{{- $gateway := dict "listen" ":8470" "public_url" (required "publicURL: how do agents reach the gateway?" .Values.publicURL) -}}
{{- if .Values.tls.secretName -}}
{{- $_ := set $gateway "tls" (dict "cert_file" "/etc/trailgate/tls/tls.crt" "key_file" "/etc/trailgate/tls/tls.key") -}}
{{- else if .Values.tls.plaintext -}}
{{- $_ := set $gateway "plaintext" true -}}
{{- else -}}
{{- fail "tls.secretName: agents' tokens need TLS; name a Secret, or say tls.plaintext: true where something in front terminates it" -}}
{{- end -}}
{{- $admin := dict "listen" "127.0.0.1:8471" -}}
{{- if .Values.admin.enabled -}}
{{- $secret := required "admin.tlsSecretName: humans' listener needs a certificate" .Values.admin.tlsSecretName -}}
{{- $admin = dict "listen" ":8471" "public_url" (required "admin.publicURL: how do humans reach the gateway?" .Values.admin.publicURL)
  "tls" (dict "cert_file" "/etc/trailgate/admin-tls/tls.crt" "key_file" "/etc/trailgate/admin-tls/tls.key") -}}
{{- end -}}
{{- $log := dict "format" "json" -}}
{{- $set := dict "id" (include "trailgate.id" .) "data_dir" "/var/lib/trailgate/data" "gateway" $gateway "admin" $admin -}}
{{- if .Values.connectors.enabled -}}
{{- $_ := set $set "connectors" (dict "listen" ":8472") -}}
{{- end -}}
{{- $config := mergeOverwrite (dict "log" $log) (deepCopy .Values.config) $set -}}
{{- if not $config.connections -}}
{{- fail "config.connections: none; name at least one BigQuery project" -}}
{{- end -}}
{{ toYaml $config }}
{{- end -}}
