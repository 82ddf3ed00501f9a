"""Settings that contradict one another or mean nothing are refused when they are made."""

from typing import Any

import pytest

from sdft_ray.distill.divergence import LossSettings

VALID: dict[str, Any] = {
    "divergence": "reverse_kl",
    "jsd_beta": 0.5,
    "estimator": "analytic",
    "temperature": 1.0,
    "mismatch": "sequence",
}


@pytest.mark.parametrize("estimator", ["sampled_token", "rao_blackwell"])
@pytest.mark.parametrize("divergence", ["forward_kl", "jsd"])
def test_estimators_of_the_reverse_kl_are_refused_with_another_divergence(estimator, divergence):
    with pytest.raises(ValueError, match=f"{estimator} estimates the gradient of reverse_kl.*{divergence}"):
        LossSettings(**(VALID | {"estimator": estimator, "divergence": divergence}))
    LossSettings(**(VALID | {"estimator": estimator}))


@pytest.mark.parametrize("key", ["divergence", "estimator", "mismatch"])
def test_an_unknown_name_is_refused_with_its_key(key):
    with pytest.raises(ValueError, match=f"{key}='REVERSE' is unknown: choose one of"):
        LossSettings(**(VALID | {key: "REVERSE"}))


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_a_jsd_beta_at_the_ends_is_refused(beta):
    with pytest.raises(ValueError, match="vanishes at both ends"):
        LossSettings(**(VALID | {"divergence": "jsd", "jsd_beta": beta}))


@pytest.mark.parametrize("key", ["temperature", "mismatch_clip"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_number_that_is_not_positive_is_refused(key, value):
    with pytest.raises(ValueError, match=f"{key}="):
        LossSettings(**(VALID | {key: value}))


def test_the_clip_is_two_unless_said_otherwise():
    assert LossSettings(**VALID).mismatch_clip == 2.0
