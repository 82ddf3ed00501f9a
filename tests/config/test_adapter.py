from typing import Any

import pytest

from sdft_ray.config import AdapterConfig, AdapterKind, ExportConfig
from sdft_ray.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 0}, "model.adapter.rank=0: must be at least 1"),
        ({"alpha": 0.0}, "model.adapter.alpha=0.0: must be a positive number"),
        ({"alpha": -1.0}, "model.adapter.alpha=-1.0: must be a positive number"),
        ({"alpha": float("nan")}, "model.adapter.alpha=nan: must be a positive number"),
        ({"dropout": 1.0}, "model.adapter.dropout=1.0: must lie in"),
        ({"targets": ["q_proj", " "]}, "holds an empty name"),
    ],
)
def test_an_adapter_that_could_learn_nothing_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        AdapterConfig(kind=AdapterKind.LORA, **settings)
    assert said in str(refusal.value)


@pytest.mark.parametrize("settings", [{"rank": 4}, {"targets": ["q_proj"]}, {"alpha": 1.0}, {"dropout": 0.1}])
def test_settings_of_an_adapter_that_is_off_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="set model.adapter.kind=LORA"):
        AdapterConfig(**settings)


def test_nothing_is_merged_where_no_adapter_is_trained() -> None:
    ExportConfig(merged=True).check_fit(AdapterConfig(kind=AdapterKind.LORA))
    with pytest.raises(ConfigError, match=r"export\.merged=True.*leave it out"):
        ExportConfig(merged=True).check_fit(AdapterConfig())
