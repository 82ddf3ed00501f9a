"""What Kubernetes takes as names and values: settings become parts of objects, and most are looked at by no schema.

An API server or a kubelet refuses them, some of them long after the job was taken.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from sdft_ray.config.validation import require

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # of what a service is named after, as KubeRay's objects are
_SUBDOMAIN = re.compile(rf"{DNS_LABEL.pattern}(\.{DNS_LABEL.pattern})*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?", re.ASCII)
_QUALIFIED = re.compile(rf"({_SUBDOMAIN.pattern}/)?[A-Za-z0-9]([-\w.]{{0,61}}[A-Za-z0-9])?", re.ASCII)
_KEY_OF_DATA = re.compile(r"[-\w.]{1,253}", re.ASCII)
_PART = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(:\d+)?/)?{_PART}(/{_PART})*(:\w[\w.-]{{0,127}})?(@[a-z0-9]+:[a-f0-9]{{32,}})?",
    re.ASCII,
)
LARGEST_INT32 = 2**31 - 1  # with which Kubernetes writes users and seconds
_LONGEST = 253  # characters of an object's name
_TOLERATION = {"key", "operator", "value", "effect", "tolerationSeconds"}
_OPERATORS = ("Exists", "Equal")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def check_namespace(key: str, value: str) -> None:
    """Refuses what no namespace is called."""
    is_name = bool(DNS_LABEL.fullmatch(value)) and len(value) <= 63
    remedy = "use small letters, digits and - only, at most 63 of them"
    require(is_name, key, repr(value), "is no name of Kubernetes", remedy)


def check_object_name(key: str, value: str) -> None:
    """Refuses what no claim, secret, storage class or service account is called; "" stands for none."""
    is_name = not value or bool(_SUBDOMAIN.fullmatch(value) and len(value) <= _LONGEST)
    remedy = "use small letters, digits, - and . only, with a letter or digit at both ends"
    require(is_name, key, value, "is no name of an object of Kubernetes", remedy)


def check_image(key: str, value: str) -> None:
    """Refuses what a kubelet calls InvalidImageName, an hour before the job is given up."""
    remedy = "write REGISTRY/NAME:TAG, the name in small letters"
    require(bool(_IMAGE.fullmatch(value)), key, repr(value), "is no name of an image", remedy)


def check_secret(key: str, place: str) -> None:
    """Refuses what is no SECRET/KEY; says no part of it, which may be the secret itself."""
    secret, _, of_data = place.partition("/")
    is_place = bool(_SUBDOMAIN.fullmatch(secret) and len(secret) <= _LONGEST and _KEY_OF_DATA.fullmatch(of_data))
    remedy = "write SECRET/KEY: the name of a Secret of the namespace, and a key in it"
    require(is_place, key, "...", "does not say where the secret is", remedy)


def check_label_value(key: str, value: str) -> None:
    """Refuses what no label may hold."""
    remedy = "use at most 63 letters, digits, -, _ and ., with a letter or digit at both ends"
    require(bool(_LABEL_VALUE.fullmatch(value)), key, repr(value), "is no value of a label", remedy)


def check_selector(key: str, labels: Mapping[str, str]) -> None:
    """Refuses labels that no node can have."""
    for name, value in labels.items():
        remedy = "write NAME or DOMAIN/NAME, of letters, digits, -, _ and ."
        require(bool(_QUALIFIED.fullmatch(name)), f"{key}.{name}", value, "is no name of a label", remedy)
        check_label_value(f"{key}.{name}", value)


def check_resource(key: str, value: str) -> None:
    """Refuses what no device plugin can offer: a name of its own has a domain."""
    is_name = bool(_QUALIFIED.fullmatch(value)) and "/" in value
    require(is_name, key, repr(value), "is no resource of a device plugin", "write DOMAIN/NAME, such as nvidia.com/gpu")


def check_mount(key: str, value: str, taken: Sequence[str]) -> None:
    """Refuses where no volume can be mounted, or another one is."""
    path = PurePosixPath(value)
    is_folder = path.is_absolute() and path != PurePosixPath("/") and ":" not in value and ".." not in path.parts
    require(is_folder, key, value, "is no folder to mount a volume at", "set it to /storage")
    problem = "is where every pod has another volume"
    require(str(path) not in taken, key, value, problem, "set it to /storage")


def check_tolerations(key: str, tolerations: Sequence[Any]) -> None:
    """Refuses what no pod is taken with; KubeRay's own schema lets most of it pass."""
    remedy = "write them as [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]"
    for toleration in tolerations:
        is_one = isinstance(toleration, Mapping) and bool(toleration) and set(toleration) <= _TOLERATION
        require(is_one, key, toleration, f"is no toleration, which has {', '.join(sorted(_TOLERATION))}", remedy)
        operator, effect = toleration.get("operator", "Equal"), toleration.get("effect", "")
        require(operator in _OPERATORS, key, toleration, f"has an operator that is none of {_OPERATORS}", remedy)
        require(not effect or effect in _EFFECTS, key, toleration, f"has an effect that is none of {_EFFECTS}", remedy)
        is_right = not toleration.get("value") if operator == "Exists" else bool(toleration.get("key"))
        problem = "has a value, which Exists does not look at, or a value of no key"
        require(is_right, key, toleration, problem, remedy)
