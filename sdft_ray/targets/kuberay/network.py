"""Who may talk to a job's pods, and who reads their metrics."""

from typing import Any

from sdft_ray.config import TargetConfig
from sdft_ray.targets.kuberay.pod_template import HEAD_PORTS, JOB_LABEL, WORKER_PORTS, job_labels

Object = dict[str, Any]
NAMESPACE_LABEL = "kubernetes.io/metadata.name"  # which Kubernetes itself puts on every namespace
DNS_PORT = 53
API_SERVER_PORT = 6443  # of most clusters


def network_policy(name: str, target: TargetConfig, *, autoscales: bool) -> Object:
    """Lets the job's pods talk to one another and outwards; in come the operator and the monitoring alone.

    An autoscaler in the head's pod talks to the API server, behind whose service is another port.
    """
    outwards = [443, *([API_SERVER_PORT] if autoscales else [])]  # the hub, Weights & Biases, a judge
    own = {"podSelector": {"matchLabels": {JOB_LABEL: name}}}
    ingress: list[Object] = [{"from": [own]}]
    # The operator asks the dashboard for the state of the job, whoever has submitted it.
    ingress.append(_from_namespace(target.operator_namespace, HEAD_PORTS["dashboard"]))
    if target.monitoring_namespace:
        ingress.append(_from_namespace(target.monitoring_namespace, WORKER_PORTS["metrics"]))
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": target.namespace, "labels": job_labels(name)},
        "spec": {
            "podSelector": {"matchLabels": {JOB_LABEL: name}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": [
                {"to": [own]},
                # Without names nothing starts: workers look for their head by one.
                {"ports": [{"protocol": protocol, "port": DNS_PORT} for protocol in ("UDP", "TCP")]},
                {"ports": [{"protocol": "TCP", "port": port} for port in outwards]},
            ],
        },
    }


def pod_monitor(name: str, target: TargetConfig) -> Object:
    """Has Prometheus scrape every pod: an actor's metrics appear on the node it lives on."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": name, "namespace": target.namespace, "labels": job_labels(name)},
        "spec": {
            "jobLabel": JOB_LABEL,
            "selector": {"matchLabels": {JOB_LABEL: name}},
            "podMetricsEndpoints": [{"port": "metrics", "path": "/metrics"}],
        },
    }


def _from_namespace(namespace: str, port: int) -> Object:
    selector = {"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: namespace}}}
    return {"from": [selector], "ports": [{"protocol": "TCP", "port": port}]}
