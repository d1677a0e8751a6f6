{{/* Of a part, `agent` or `verifier`. All take (dict "root" $ "part" NAME). */}}

{{- define "pgproof.name" -}}
{{ .root.Release.Name }}-{{ .part }}
{{- end }}

{{- define "pgproof.selector" -}}
app.kubernetes.io/name: pgproof-{{ .part }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "pgproof.labels" -}}
{{ include "pgproof.selector" . }}
app.kubernetes.io/part-of: pgproof
{{ include "pgproof.origin" .root }}
{{- end }}

{{/* Takes the root. */}}
{{- define "pgproof.origin" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "pgproof.program" -}}
{{ eq .part "agent" | ternary "pgproof" "pgproof-verifier" }}
{{- end }}

{{- define "pgproof.image" -}}
{{- $image := (index .root.Values .part).image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* The port of the daemon's health server, from its policy. */}}
{{- define "pgproof.port" -}}
{{- $policy := (index .root.Values .part).policy | fromToml -}}
{{- if eq .part "verifier" -}}
{{- $policy = $policy.verifier | default dict -}}
{{- end -}}
{{- ($policy.monitoring | default dict).listen | default "" | splitList ":" | last -}}
{{- end }}
