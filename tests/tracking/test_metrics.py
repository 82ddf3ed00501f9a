import re
from pathlib import Path

import pytest

from sdft_ray.tracking.metrics import METRICS, check_declared, find_metric

PACKAGE = Path(__file__).parents[2] / "sdft_ray"
EMITTED_KEY = re.compile(r"""["']((?:loop|rollout|learner|teacher|evaluation)/[a-z_{}.]+)["']""")


def test_every_metric_key_written_anywhere_in_the_package_is_declared() -> None:
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "tracking":
            found.update(EMITTED_KEY.findall(path.read_text()))
    assert "loop/staleness_max" in found
    check_declared(re.sub(r"\{[^}]*\}", "any", key) for key in found)


def test_keys_are_unique_and_say_role_and_quantity() -> None:
    keys = [metric.key for metric in METRICS]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[a-z]+/[a-z_{}]+", key) for key in keys)


def test_durations_end_in_s_and_nats_and_shares_say_so() -> None:
    for metric in METRICS:
        assert (metric.unit == "s") == metric.key.endswith("_s"), metric.key
        if metric.key.endswith("_nats"):
            assert metric.unit == "nats"
        if metric.key.endswith("_share"):
            assert metric.unit == "share"


def test_a_family_gives_the_name_of_its_set() -> None:
    metric, set_name = find_metric("evaluation/taught-facts_v2_accuracy")
    assert (metric.key, set_name) == ("evaluation/{set}_accuracy", "taught-facts_v2")
    assert find_metric("learner/loss")[1] == ""


@pytest.mark.parametrize("key", ["learner/lose", "loss", "evaluation/accuracy", "evaluation/a/b_accuracy"])
def test_an_undeclared_key_is_refused_by_name(key: str) -> None:
    with pytest.raises(KeyError, match=key):
        find_metric(key)
