"""What an API server says to the objects of a job: a server-side dry run. `check` asks no cluster, so it is apart."""

from collections.abc import Sequence

from sdft_ray.errors import ClusterError, first_line
from sdft_ray.targets.jobs import Unreachable
from sdft_ray.targets.kuberay.check import Checked
from sdft_ray.targets.kuberay.finding import Finding
from sdft_ray.targets.kuberay.kubectl import Kubectl
from sdft_ray.targets.kuberay.objects import Object, written

IS_THERE = "(AlreadyExists)"  # an API server looks for one of the same name last, behind its schemas and webhooks


def dry_run(objects: Sequence[Object], kubectl: Kubectl) -> Checked:
    """Has the cluster's own schemas, webhooks, quotas and rights judge each object as a new one; nothing is kept.

    Args:
        objects: those of one job.
        kubectl: of the cluster and the namespace; where nobody answers, that is noted as not checked.
    """
    try:
        kubectl.version()
    except ClusterError as error:
        return Checked(findings=(), not_checked=(f"server-side dry run: no cluster answers ({first_line(error)})",))
    findings, not_checked, accepted = [], [], []
    for thing in objects:
        name = f"{thing['kind']} {thing['metadata']['namespace']}/{thing['metadata']['name']}"
        try:
            kubectl.dry_run(written([thing]))
        except Unreachable as error:
            not_checked.append(f"server-side dry run of {name}: {' '.join(str(error).split())}")
        except ClusterError as error:
            if IS_THERE in str(error):
                accepted.append(f"{name}; one of that name is there")
            else:
                findings.append(Finding(thing["kind"], " ".join(str(error).split())))
        else:
            accepted.append(name)
    return Checked(findings=tuple(findings), not_checked=tuple(not_checked), accepted=tuple(accepted))
