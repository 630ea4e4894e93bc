{{- define "winnow.selector" -}}
app.kubernetes.io/name: winnow
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "winnow.labels" -}}
{{ include "winnow.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* What the API's and the workers' pods have in common. */ -}}
{{- define "winnow.pod" -}}
serviceAccountName: {{ .Release.Name }}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: tmp
    emptyDir: {}
  - name: cache
    emptyDir: {}
  {{- if .Values.workspace.claim }}
  - name: workspace
    persistentVolumeClaim: {claimName: {{ .Values.workspace.claim }}}
  {{- end }}
  {{- if .Values.corpora.claim }}
  - name: corpora
    persistentVolumeClaim: {claimName: {{ .Values.corpora.claim }}, readOnly: true}
  {{- end }}
{{- end }}

{{- define "winnow.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: cache, mountPath: /cache}
  {{- if .Values.workspace.claim }}
  - {name: workspace, mountPath: /workspace}
  {{- end }}
  {{- if .Values.corpora.claim }}
  - {name: corpora, mountPath: /corpora, readOnly: true}
  {{- end }}
{{- with .Values.secrets }}
envFrom:
  {{- range . }}
  - secretRef: {name: {{ . }}}
  {{- end }}
{{- end }}
{{- end }}

{{- define "winnow.env" -}}
- name: WINNOW_WORKSPACE
  value: {{ if .Values.workspace.claim }}/workspace{{ else }}{{ required "set workspace.url or workspace.claim: where all is kept that must not be lost" .Values.workspace.url | quote }}{{ end }}
- name: WINNOW_REDIS
  {{- if .Values.redis.urlSecret }}
  valueFrom: {secretKeyRef: {name: {{ .Values.redis.urlSecret }}, key: url}}
  {{- else }}
  value: redis://{{ .Release.Name }}-redis:6379
  {{- end }}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
