"""KubeRay: a run as objects of Kubernetes, and whether a cluster would take them."""
