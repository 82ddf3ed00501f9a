"""Known shapes are those of the models they are named for."""

import pytest

from sdft_ray.errors import ConfigError
from sdft_ray.planning.shapes import KNOWN_SHAPES, known_shape

BILLIONS = {
    "qwen2.5-3b": 3.086,
    "qwen2.5-7b": 7.616,
    "qwen2.5-14b": 14.770,
    "qwen2.5-32b": 32.764,
    "qwen2.5-72b": 72.706,
}


@pytest.mark.parametrize("name", KNOWN_SHAPES)
def test_known_shapes_have_the_parameters_their_makers_name(name: str) -> None:
    assert KNOWN_SHAPES[name].num_parameters / 1e9 == pytest.approx(BILLIONS[name], abs=6e-4)


def test_an_unknown_shape_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="plan.model=gpt: .*choose one of qwen2.5-3b"):
        known_shape("gpt")
