import OTLP

/// `k8s.*`, from variables that a pod's manifest fills by the downward API. No name for them is standard; these follow
/// the attributes' own names.
///
///     env:
///       - name: K8S_POD_NAME
///         valueFrom: { fieldRef: { fieldPath: metadata.name } }
///       - name: K8S_POD_UID
///         valueFrom: { fieldRef: { fieldPath: metadata.uid } }
///       - name: K8S_NAMESPACE_NAME
///         valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
///       - name: K8S_NODE_NAME
///         valueFrom: { fieldRef: { fieldPath: spec.nodeName } }
///       - name: K8S_CONTAINER_NAME
///         value: app
///
/// The OpenTelemetry operator's variables, `OTEL_RESOURCE_ATTRIBUTES_POD_NAME`, `…_POD_UID` and `…_NODE_NAME`, count
/// too. What `OTEL_RESOURCE_ATTRIBUTES` says goes before all of them.
enum KubernetesResource {
    private static let variables: [(attribute: String, names: [String])] = [
        ("k8s.pod.name", ["K8S_POD_NAME", "OTEL_RESOURCE_ATTRIBUTES_POD_NAME"]),
        ("k8s.pod.uid", ["K8S_POD_UID", "OTEL_RESOURCE_ATTRIBUTES_POD_UID"]),
        ("k8s.namespace.name", ["K8S_NAMESPACE_NAME"]),
        ("k8s.node.name", ["K8S_NODE_NAME", "OTEL_RESOURCE_ATTRIBUTES_NODE_NAME"]),
        ("k8s.node.uid", ["K8S_NODE_UID"]),
        ("k8s.container.name", ["K8S_CONTAINER_NAME"]),
        ("k8s.cluster.name", ["K8S_CLUSTER_NAME"]),
        ("k8s.deployment.name", ["K8S_DEPLOYMENT_NAME"]),
        ("k8s.statefulset.name", ["K8S_STATEFULSET_NAME"]),
        ("k8s.daemonset.name", ["K8S_DAEMONSET_NAME"]),
        ("k8s.replicaset.name", ["K8S_REPLICASET_NAME"]),
        ("k8s.job.name", ["K8S_JOB_NAME"]),
        ("k8s.cronjob.name", ["K8S_CRONJOB_NAME"]),
    ]

    /// - Parameter mountinfo: tells the pod's UID and the container's name where no variable does.
    static func attributes(environment: [String: String], mountinfo: String) -> [KeyValue] {
        let pod = ContainerResource.pod(mountinfo: mountinfo)
        let mounted = ["k8s.pod.uid": pod.uid, "k8s.container.name": pod.container]
        return variables.compactMap { attribute, names in
            let value =
                names.lazy.compactMap { environment[$0] }.first { !$0.isEmpty } ?? mounted[attribute].flatMap { $0 }
            return value.map { KeyValue(attribute, .string($0)) }
        }
    }
}
