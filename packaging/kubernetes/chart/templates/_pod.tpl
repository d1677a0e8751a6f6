{{/*
A pod of either part; takes (dict "root" $ "part" NAME "args" LIST "daemon" BOOL). Whatever bounds its powers stands here once and is no value.
*/}}
{{- define "pgproof.pod" -}}
{{- $values := index .root.Values .part }}
{{- $uid := eq .part "agent" | ternary 10001 10002 }}
{{- if not .daemon }}
restartPolicy: Never
{{- end }}
# Records name the host; a pod's own name would be a new host each time, and the one before silent for ever. Leases tell pods of one
# name apart by boot and by space of process ids.
hostname: {{ include "pgproof.name" . }}
serviceAccountName: {{ include "pgproof.name" . }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: 120
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.pod.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.pod.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ $uid }}
  runAsGroup: {{ $uid }}
  fsGroup: {{ $uid }}
  seccompProfile:
    type: RuntimeDefault
{{- if .daemon }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "pgproof.selector" . | nindent 8 }}
{{- end }}
initContainers:
  # A mounted secret is root's and this group's to read. pgproof takes it so; not every libpq takes such a key or password file, so
  # copies are made that are the user's alone. It may run again in the same pod, so that older copies give way.
  - name: keys
    image: {{ include "pgproof.image" . }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    command: [sh, -c, "umask 077 && cp -f /run/secrets/given/* /run/secrets/pgproof/"]
    resources:
      requests: {cpu: 10m, memory: 16Mi}
      limits: {memory: 64Mi}
    securityContext:
      {{- include "pgproof.confinement" . | nindent 6 }}
    volumeMounts:
      - name: given
        mountPath: /run/secrets/given
        readOnly: true
      - name: keys
        mountPath: /run/secrets/pgproof
containers:
  - name: {{ include "pgproof.program" . }}
    image: {{ include "pgproof.image" . }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    args: {{ toJson .args }}
    {{- with $values.secrets.store }}
    envFrom:
      - secretRef:
          name: {{ . }}
    {{- end }}
    {{- if .daemon }}
    ports:
      - name: metrics
        containerPort: {{ include "pgproof.port" . }}
    startupProbe:
      httpGet: {path: /health/live, port: metrics}
      periodSeconds: 5
      failureThreshold: 24
    livenessProbe:
      httpGet: {path: /health/live, port: metrics}
      periodSeconds: 30
      failureThreshold: 4
    readinessProbe:
      httpGet: {path: /health/ready, port: metrics}
      periodSeconds: 30
    {{- end }}
    resources:
      {{- toYaml $values.resources | nindent 6 }}
    securityContext:
      {{- include "pgproof.confinement" . | nindent 6 }}
    volumeMounts:
      - name: policy
        mountPath: /etc/{{ include "pgproof.program" . }}
        readOnly: true
      - name: keys
        mountPath: /run/secrets/pgproof
        readOnly: true
      - name: scratch
        mountPath: /tmp
      {{- with $values.volumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  - name: policy
    configMap:
      name: {{ include "pgproof.name" . }}
  - name: given
    secret:
      secretName: {{ $values.secrets.keys }}
      defaultMode: 0440
  - name: keys
    emptyDir:
      medium: Memory
      sizeLimit: 1Mi
  - name: scratch
    {{- if $values.scratch.storageClass }}
    ephemeral:
      volumeClaimTemplate:
        spec:
          accessModes: [ReadWriteOnce]
          storageClassName: {{ $values.scratch.storageClass }}
          resources:
            requests:
              storage: {{ $values.scratch.size }}
    {{- else }}
    emptyDir:
      sizeLimit: {{ $values.scratch.size }}
    {{- end }}
  {{- with $values.volumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "pgproof.confinement" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Metadata of a pod: its daemon starts anew when its policy changes. */}}
{{- define "pgproof.podMetadata" -}}
{{- $values := index .root.Values .part }}
labels:
  {{- include "pgproof.labels" . | nindent 2 }}
annotations:
  checksum/policy: {{ printf "%s\n%s" $values.policy .root.Values.trustedSigners | sha256sum }}
  {{- with $values.pod.annotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
