"""mode=check where a cluster answers: its API server judges every object, and nothing is kept."""

from pathlib import Path

import pytest

from sdft_ray.errors import SdftError
from sdft_ray.launch.targeting import check_rendered
from tests.targets.kuberay.fake_cluster import FakeCluster
from tests.targets.kuberay.jobs import job_config


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return FakeCluster(tmp_path)


def check() -> None:
    check_rendered([[("", job_config())]])


def test_a_cluster_that_answers_judges_every_object_and_keeps_none(
    kube: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    check()
    said = capsys.readouterr().out
    for kind in ("ConfigMap", "RayJob", "NetworkPolicy"):
        assert f"accepted     {kind} default/billing\n" in said
    assert "server-side dry run" not in said and said.endswith("no rule is broken\n")
    assert kube.state == {}


def test_what_the_cluster_refuses_is_a_broken_rule_in_its_own_words(
    kube: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    kube.refuse("RayJob", 'Error from server (Forbidden): admission webhook "quota" denied the request:\nno GPUs left')
    with pytest.raises(SdftError, match="1 rules are broken"):
        check()
    said = capsys.readouterr().out
    denied = (
        "broken       RayJob: kubectl create --dry-run=server --filename=-: Error from server (Forbidden): admission"
    )
    assert f'{denied} webhook "quota" denied the request: no GPUs left\n' in said
    assert "accepted     ConfigMap default/billing\n" in said and "accepted     RayJob" not in said


def test_an_object_that_is_there_is_judged_and_said_to_be_there(
    kube: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    kube.put("ConfigMap", "billing", immutable=True)
    check()
    assert "accepted     ConfigMap default/billing; one of that name is there\n" in capsys.readouterr().out


def test_a_webhook_that_does_not_answer_leaves_its_object_unchecked(
    kube: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    kube.refuse("RayJob", "Error from server (InternalError): failed calling webhook: context deadline exceeded")
    check()
    said = capsys.readouterr().out
    assert "not checked  server-side dry run of RayJob default/billing: kubectl create" in said


@pytest.mark.parametrize("answer", ["connection refused", "kubectl is not installed"])
def test_without_a_cluster_the_rules_alone_decide_and_this_is_said(
    kube: FakeCluster, answer: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer == "connection refused":
        kube.lose_api(lost=True)
    else:
        (kube.folder / "kubectl").unlink()
        monkeypatch.setenv("PATH", str(kube.folder))
    check()
    said = capsys.readouterr().out
    assert "not checked  server-side dry run: no cluster answers (" in said and answer in said
    assert said.endswith("no rule is broken\n")
