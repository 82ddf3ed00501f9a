"""What a real `kubectl` says where something is missing, and what this command makes of it."""

from pathlib import Path

import pytest

from sdft_ray.errors import ClusterError, ConfigError, SdftError
from sdft_ray.targets.jobs import Unreachable
from sdft_ray.targets.kuberay.kubectl import Kubectl

NOTE = (
    'E1129 01:47:03.547091   16346 memcache.go:265] "Unhandled Error" err="couldn\'t get current server API group '
    'list: Get \\"https://10.0.0.1:6443/api?timeout=20s\\": dial tcp 10.0.0.1:6443: connect: connection refused"'
)
AGGREGATED = (
    'E1129 01:47:03.547091   16346 memcache.go:287] "Unhandled Error" err="couldn\'t get resource list for '
    'metrics.k8s.io/v1beta1: the server is currently unable to handle the request"'
)


def refusal(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> SdftError:
    """The error of a `kubectl` that prints these lines and fails."""
    (folder / "said").write_text("\n".join(lines))
    (folder / "kubectl").write_text(f"#!/bin/sh\ncat {folder}/said >&2\nexit 1\n")
    (folder / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    with pytest.raises(SdftError) as caught:
        Kubectl("research", "training").get("rayjobs.ray.io", "billing")
    return caught.value


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ('error: the server doesn\'t have a resource type "rayjobs"', "install KubeRay's operator"),
        ('no matches for kind "RayJob" in version "ray.io/v1"', "install KubeRay's operator"),
        (
            'no matches for kind "PodMonitor" in version "monitoring.coreos.com/v1"',
            "install Prometheus' operator, or leave target.monitoring_namespace out",
        ),
        ('error: the server doesn\'t have a resource type "podmonitors"', "install Prometheus' operator"),
        (
            "error: You must be logged in to the server (Unauthorized)",
            "sign in anew, or choose another target.kube_context",
        ),
        (
            'Error from server (Forbidden): rayjobs.ray.io "billing" is forbidden: User "eve" cannot get resource '
            '"rayjobs" in API group "ray.io" in the namespace "research"',
            "have somebody give you that right",
        ),
        (
            "The connection to the server localhost:8080 was refused - did you specify the right host or port?",
            "set KUBECONFIG to a file that names a cluster",
        ),
    ],
)
@pytest.mark.parametrize("note", [NOTE, AGGREGATED])
def test_a_refusal_has_a_remedy_of_its_own_and_is_not_asked_again(
    said: str, remedy: str, note: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refusal(tmp_path, monkeypatch, note, note, said)
    assert type(error) is ClusterError
    assert said in str(error) and remedy in str(error)
    assert "memcache.go" not in str(error) and "\n" not in str(error)


def test_a_server_that_is_away_is_told_of_in_one_line_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "The connection to the server 10.0.0.1:6443 was refused - did you specify the right host or port?"
    error = refusal(tmp_path, monkeypatch, NOTE, NOTE, said)
    assert isinstance(error, Unreachable)
    assert str(error) == f"kubectl get rayjobs.ray.io billing: {said}"


def test_a_context_or_namespace_that_is_not_there_is_named_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refusal(tmp_path, monkeypatch, 'error: context "training" does not exist')
    assert isinstance(error, ConfigError) and str(error).startswith("target.kube_context='training'")
    error = refusal(tmp_path, monkeypatch, 'Error from server (NotFound): namespaces "research" not found')
    assert isinstance(error, ConfigError) and "kubectl create namespace research" in str(error)
