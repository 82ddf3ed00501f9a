"""What is refused of the settings of mode=check_teacher."""

import re

import pytest

from sdft_ray.config import CheckConfig
from sdft_ray.errors import ConfigError


def test_by_default_all_built_in_templates_are_compared_on_32_examples() -> None:
    check = CheckConfig()
    assert (check.num_examples, check.templates) == (32, [])
    assert check.match is None and check.max_new_tokens is None


@pytest.mark.parametrize("num_examples", [1, 0, -3])
def test_one_example_has_nobody_elses_demonstration_to_be_misled_by(num_examples: int) -> None:
    message = f"check.num_examples={num_examples}: leaves no other example to take a wrong demonstration from; set "
    with pytest.raises(ConfigError, match=re.escape(message)):
        CheckConfig(num_examples=num_examples)


def test_an_answer_has_at_least_one_token() -> None:
    with pytest.raises(ConfigError, match=r"check\.max_new_tokens=0: must be at least 1"):
        CheckConfig(max_new_tokens=0)
