"""Every setting with a value of another type or out of range: composed, or refused with an error of this package."""

from functools import cache

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdft_ray.config.saved import flat_settings, plain_settings
from sdft_ray.errors import SdftError
from sdft_ray.launch.composing import compose_config

CLUSTER = "+cluster=local"
VALUES = (
    ["abc", "''", "null", "true", "nan", "-.inf", "1e400", "-1", "0", "1.5", "9" * 20]
    + ["'[1,2]'", "[1,2]", "{a: 1}", "[x", "'", "${nothing}", "a=b"]
)  # fmt: skip


@cache
def keys() -> list[str]:
    return sorted(flat_settings(plain_settings(compose_config(CLUSTER))))


@settings(max_examples=20, deadline=None, derandomize=True)
@example(key="cluster.learner.gpus_per_worker", value="1e400")
@example(key="faults.grace_s", value="1e400")
@given(key=st.deferred(lambda: st.sampled_from(keys())), value=st.sampled_from(VALUES))
def test_a_setting_of_another_type_or_out_of_range_is_refused_by_an_error_of_its_own(key: str, value: str) -> None:
    try:
        compose_config(CLUSTER, f"{key}={value}")
    except SdftError as error:
        assert str(error)
