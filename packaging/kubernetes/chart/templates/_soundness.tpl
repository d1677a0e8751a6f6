{{/* What no schema can say: both parts together, and what their policies hold. */}}

{{- define "pgproof.sound" -}}
{{- $agent := .Values.agent }}
{{- $verifier := .Values.verifier }}
{{- if not (or $agent.enabled $verifier.enabled) }}
{{- fail "neither agent nor verifier is enabled" }}
{{- end }}
{{- if and $agent.enabled $verifier.enabled (eq $agent.secrets.keys $verifier.secrets.keys) }}
{{- fail "agent.secrets.keys and verifier.secrets.keys are one secret: who backs up must not hold what reads the backups" }}
{{- end }}
{{- if and $agent.enabled $verifier.enabled $agent.secrets.store (eq $agent.secrets.store $verifier.secrets.store) }}
{{- fail "agent.secrets.store and verifier.secrets.store are one secret: their powers in the bucket differ (packaging/cloud)" }}
{{- end }}
{{- if $agent.enabled }}
{{- $policy := include "pgproof.policy" (dict "root" . "part" "agent") | fromToml }}
{{- if ($policy.keys | default dict).identity_files }}
{{- fail "agent.policy names identity_files: who backs up must not hold what reads the backups" }}
{{- end }}
{{- if and (eq $agent.mode "cronjob") (gt (len .Release.Name) 46) }}
{{- fail "the release's name is longer than 46 characters: a CronJob's, which ends in -agent, may have 52" }}
{{- end }}
{{- if eq $agent.mode "daemon" }}
{{- include "pgproof.heard" (dict "key" "agent.policy" "table" "[monitoring]" "listen" ($policy.monitoring | default dict).listen) }}
{{- end }}
{{- end }}
{{- if $verifier.enabled }}
{{- $policy := include "pgproof.policy" (dict "root" . "part" "verifier") | fromToml }}
{{- $own := $policy.verifier | default dict }}
{{- if not (or $own.identity_files ($policy.keys | default dict).identity_files) }}
{{- fail "verifier.policy names no identity_files: nothing can be restored without" }}
{{- end }}
{{- include "pgproof.heard" (dict "key" "verifier.policy" "table" "[verifier.monitoring]" "listen" ($own.monitoring | default dict).listen) }}
{{- end }}
{{- end }}

{{/* A policy's text, if it is TOML at all; pgproof itself looks at the rest. */}}
{{- define "pgproof.policy" -}}
{{- $text := (index .root.Values .part).policy }}
{{- with ($text | fromToml).Error }}
{{- fail (printf "%s.policy is not TOML: %s" $.part .) }}
{{- end }}
{{- $text }}
{{- end }}

{{- define "pgproof.heard" -}}
{{- if not (regexMatch "^(0\\.0\\.0\\.0|\\[::\\]):[0-9]+$" (.listen | default "")) }}
{{- fail (printf "%s needs `%s listen = \"0.0.0.0:PORT\"`: its pod is probed and scraped there" .key .table) }}
{{- end }}
{{- end }}
