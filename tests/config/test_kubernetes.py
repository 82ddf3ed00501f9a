"""What a cluster refuses after a job was taken, or drops without a word, is refused with its setting before."""

import pytest

from sdft_ray.config import Queue, Submission, TargetConfig, TargetKind
from sdft_ray.config.target import VolumeConfig
from sdft_ray.errors import ConfigError

RIGHT = {"kind": TargetKind.KUBERAY, "image": "registry.example:5000/team/sdft_ray:gpu"}
CLAIM = VolumeConfig(claim="training")


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("target.image", {"image": "Registry/Sdft:gpu"}),
        ("target.image", {"image": "registry/sdft:"}),
        ("target.image", {"image": "registry/sd ft:gpu"}),
        ("target.namespace", {"namespace": ""}),
        ("target.namespace", {"namespace": "Team_A"}),
        ("target.operator_namespace", {"operator_namespace": ""}),
        ("target.cluster_name", {"cluster_name": "1mine"}),
        ("target.submission", {"cluster_name": "mine", "submission": Submission.SIDECAR}),
        ("target.image_pull_secret", {"image_pull_secret": "My_Secret"}),
        ("target.service_account", {"service_account": "Trainer"}),
        ("target.token_secret", {"token_secret": "to_ken"}),
        ("target.token_secret", {"token_secret": "mine", "token": False}),
        ("target.gpu_resource", {"gpu_resource": "gpu"}),
        ("target.gpu_resource", {"gpu_resource": "nvidia.com/g pu"}),
        ("target.node_selector.gpu", {"node_selector": {"gpu": "a 100"}}),
        ("target.node_selector.bad key", {"node_selector": {"bad key": "a"}}),
        ("target.queue_name", {"queue": Queue.KUEUE, "queue_name": "a/b"}),
        ("target.tolerations", {"tolerations": ["gpu"]}),
        ("target.tolerations", {"tolerations": [{"ky": "gpu"}]}),
        ("target.tolerations", {"tolerations": [{"key": "gpu", "operator": "Exist"}]}),
        ("target.tolerations", {"tolerations": [{"key": "gpu", "operator": "Exists", "effect": "No"}]}),
        ("target.tolerations", {"tolerations": [{"key": "gpu", "operator": "Exists", "value": "x"}]}),
        ("target.tolerations", {"tolerations": [{"effect": "NoSchedule"}]}),
        ("target.secrets.HF_TOKEN", {"secrets": {"HF_TOKEN": "Hub/token"}}),
        ("target.secrets.HF_TOKEN", {"secrets": {"HF_TOKEN": "hub/to$ken"}}),
        ("target.storage.claim", {"storage": VolumeConfig(claim="Train_ing")}),
        ("target.storage.storage_class", {"storage": VolumeConfig(claim="a", storage_class="Fast_SSD")}),
        ("target.storage.storage_class", {"storage": VolumeConfig(claim="a", storage_class="fast")}),
        ("target.storage.path", {"storage": VolumeConfig(claim="a", path="/etc/sdft_ray/")}),
        ("target.storage.path", {"storage": VolumeConfig(claim="a", path="/dev/shm")}),
        ("target.storage.path", {"storage": VolumeConfig(claim="a", path="/a:b")}),
        ("target.storage.path", {"storage": VolumeConfig(claim="a", path="/storage/../x")}),
    ],
    ids=str,
)
def test_what_no_cluster_takes_is_refused_with_its_setting(key: str, settings: dict[str, object]) -> None:
    target = TargetConfig(**{**RIGHT, "storage": CLAIM, **settings})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"^{key}="):
        target.check_pods()


@pytest.mark.parametrize(
    "settings",
    [
        {"image": "sdft_ray"},
        {"image": "localhost:5000/a/b__c@sha256:" + "0" * 64},
        {"node_selector": {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb", "spot": ""}},
        {"tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoExecute"}]},
        {"secrets": {"A": "team.hub/my.token_1"}, "storage": VolumeConfig(claim="a.b", path="/mnt/storage")},
        {"operator_namespace": "", "network_policy": False, "gpu_resource": "nvidia.com/mig-1g.10gb"},
    ],
    ids=str,
)
def test_what_a_cluster_takes_is_taken(settings: dict[str, object]) -> None:
    TargetConfig(**{**RIGHT, "storage": CLAIM, **settings}).check_pods()  # type: ignore[arg-type]


def test_a_user_whose_number_has_more_than_32_bits_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^target.user_id=4294967296"):
        TargetConfig(user_id=2**32)
