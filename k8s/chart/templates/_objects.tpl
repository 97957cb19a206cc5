{{/* An object of k8s/base as the values want it. In: root, object. Out: its text. */}}
{{- define "stratum.object" -}}
{{- $values := .root.Values -}}
{{- $object := .object -}}
{{- if and (eq $object.kind "CSIDriver") $values.inline.enabled -}}
{{- $_ := set $object.spec "volumeLifecycleModes" (append $object.spec.volumeLifecycleModes "Ephemeral") -}}
{{- end -}}
{{- if has $object.kind (list "DaemonSet" "Deployment") -}}
{{- include "stratum.pods" . -}}
{{- end -}}
{{- toYaml $object -}}
{{- end -}}

{{/* Changes what makes pods in place. In: root, object. */}}
{{- define "stratum.pods" -}}
{{- $values := .root.Values -}}
{{- $template := .object.spec.template -}}
{{- $pod := $template.spec -}}
{{- $containers := list -}}
{{- $there := $pod.containers -}}
{{- if and $values.populator.enabled (eq .object.metadata.name "stratum-csi") -}}
{{- $there = append $there (include "stratum.populator" .root | fromYaml) -}}
{{- end -}}
{{- range $there -}}
{{- if or $values.snapshots.enabled (ne .name "csi-snapshotter") -}}
{{- include "stratum.container" (dict "root" $.root "container" .) -}}
{{- $containers = append $containers . -}}
{{- end -}}
{{- end -}}
{{- $_ := set $pod "containers" $containers -}}
{{- if and $values.privateCA.configMap (eq .object.kind "DaemonSet") -}}
{{- $volume := dict "name" "registry-ca" "configMap" (dict "name" $values.privateCA.configMap) -}}
{{- $_ := set $pod "volumes" (append $pod.volumes $volume) -}}
{{- end -}}
{{- if and $values.hooks.criEndpoint (eq .object.metadata.name "stratum-csi") -}}
{{- $path := dict "path" (include "stratum.socket" .root) "type" "Directory" -}}
{{- $_ := set $pod "volumes" (append $pod.volumes (dict "name" "runtime-socket" "hostPath" $path)) -}}
{{- end -}}
{{- if and $values.metrics.tlsSecret (eq .object.metadata.name "stratum-csi") -}}
{{- $volume := dict "name" "metrics-tls" "secret" (dict "secretName" $values.metrics.tlsSecret) -}}
{{- $_ := set $pod "volumes" (append $pod.volumes $volume) -}}
{{- $_ := set $template.metadata.annotations "prometheus.io/scheme" "https" -}}
{{- end -}}
{{- if $values.imagePullSecrets -}}
{{- $_ := set $pod "imagePullSecrets" $values.imagePullSecrets -}}
{{- end -}}
{{- if $values.nodeSelector -}}
{{- $_ := set $pod "nodeSelector" (merge (dict) $values.nodeSelector $pod.nodeSelector) -}}
{{- end -}}
{{- if $values.tolerations -}}
{{- $_ := set $pod "tolerations" $values.tolerations -}}
{{- end -}}
{{- if $values.affinity -}}
{{- $_ := set $pod "affinity" $values.affinity -}}
{{- end -}}
{{- if $values.podLabels -}}
{{- $_ := set $template.metadata "labels" (merge (dict) $template.metadata.labels $values.podLabels) -}}
{{- end -}}
{{- if $values.podAnnotations -}}
{{- $annotations := default (dict) $template.metadata.annotations -}}
{{- $_ := set $template.metadata "annotations" (merge (dict) $annotations $values.podAnnotations) -}}
{{- end -}}
{{- end -}}

{{/* Changes a container in place. In: root, container. */}}
{{- define "stratum.container" -}}
{{- $values := .root.Values -}}
{{- $container := .container -}}
{{- $mounts := list -}}
{{- $args := list -}}
{{- if hasPrefix "stratum-csi:" $container.image -}}
{{- $tag := printf ":%s" (default .root.Chart.AppVersion $values.image.tag) -}}
{{- $version := ternary (printf "@%s" $values.image.digest) $tag (ne $values.image.digest "") -}}
{{- $_ := set $container "image" (printf "%s%s" $values.image.repository $version) -}}
{{- if $values.image.pullPolicy -}}
{{- $_ := set $container "imagePullPolicy" $values.image.pullPolicy -}}
{{- end -}}
{{- end -}}
{{- if eq $container.name "driver" -}}
{{- if $values.inline.enabled -}}
{{- $args = append $args "--allow-inline" -}}
{{- range $values.inline.sources -}}
{{- $args = append $args (printf "--inline-source=%s" .) -}}
{{- end -}}
{{- end -}}
{{- if $values.privateCA.configMap -}}
{{- $args = append $args (printf "--ca-file=/etc/stratum-ca/%s" $values.privateCA.key) -}}
{{- end -}}
{{- if $values.hooks.criEndpoint -}}
{{- $args = append $args (printf "--cri-endpoint=%s" $values.hooks.criEndpoint) -}}
{{- $mounts = append $mounts (dict "name" "runtime-socket" "mountPath" (include "stratum.socket" .root)) -}}
{{- end -}}
{{- if $values.metrics.tlsSecret -}}
{{- $args = append $args "--metrics-tls-cert=/etc/stratum-metrics-tls/tls.crt" -}}
{{- $args = append $args "--metrics-tls-key=/etc/stratum-metrics-tls/tls.key" -}}
{{- if $values.metrics.clientCAKey -}}
{{- $args = append $args (printf "--metrics-client-ca=/etc/stratum-metrics-tls/%s" $values.metrics.clientCAKey) -}}
{{- end -}}
{{- $mounts = append $mounts (dict "name" "metrics-tls" "mountPath" "/etc/stratum-metrics-tls" "readOnly" true) -}}
{{- end -}}
{{- end -}}
{{- if and $values.groups.enabled (eq $container.name "csi-snapshotter") -}}
{{- $args = append $args "--feature-gates=CSIVolumeGroupSnapshot=true" -}}
{{- end -}}
{{- if and $values.privateCA.configMap (has $container.name (list "driver" "hydrate")) -}}
{{- $mounts = append $mounts (dict "name" "registry-ca" "mountPath" "/etc/stratum-ca" "readOnly" true) -}}
{{- end -}}
{{- $asked := default (dict) (get $values.containers $container.name) -}}
{{- range $asked.args -}}
{{- $args = append $args . -}}
{{- end -}}
{{- if $args -}}
{{- $_ := set $container "args" (concat (default (list) $container.args) $args) -}}
{{- end -}}
{{- if $mounts -}}
{{- $_ := set $container "volumeMounts" (concat $container.volumeMounts $mounts) -}}
{{- end -}}
{{- if $asked.env -}}
{{- $_ := set $container "env" (concat (default (list) $container.env) $asked.env) -}}
{{- end -}}
{{- if $asked.resources -}}
{{- $_ := set $container "resources" $asked.resources -}}
{{- end -}}
{{- if $asked.image -}}
{{- $_ := set $container "image" $asked.image -}}
{{- end -}}
{{- end -}}

{{/* The container that the overlay adds for claims with a StratumSource, without the sources that it allows. In: the root. */}}
{{- define "stratum.populator" -}}
{{- $overlay := .Files.Get "populator/kustomization.yaml" | fromYaml -}}
{{- $operation := first ((first $overlay.patches).patch | fromYamlArray) -}}
{{- $args := list -}}
{{- range $operation.value.args -}}
{{- if not (hasPrefix "--populate-source=" .) -}}
{{- $args = append $args . -}}
{{- end -}}
{{- end -}}
{{- range .Values.populator.sources -}}
{{- $args = append $args (printf "--populate-source=%s" .) -}}
{{- end -}}
{{- toYaml (set $operation.value "args" $args) -}}
{{- end -}}

{{/* The directory of the container runtime's socket, which is another file when the runtime was started anew. In: the root. */}}
{{- define "stratum.socket" -}}
{{- dir (trimPrefix "unix://" .Values.hooks.criEndpoint) -}}
{{- end -}}

{{/* An object of k8s/monitoring, with labels. In: root, object, labels. */}}
{{- define "stratum.monitoring" -}}
{{- $_ := set .object.metadata "namespace" .root.Release.Namespace -}}
{{- if .labels -}}
{{- $_ := set .object.metadata "labels" .labels -}}
{{- end }}
---
{{ toYaml .object }}
{{ end -}}
