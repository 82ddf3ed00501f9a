"""The card of an exported model: what hubs read in front, what people read behind it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from sdft_ray.config import AdapterConfig, AdapterKind, ClusterConfig, DataConfig, RehearsalConfig, RunConfig, Target
from sdft_ray.report.model_card import write_model_card

SUMMARY = {"git_commit": "abc", "evaluation": {"taught_accuracy": {"before": None, "after": 0.75}}}


def make_card(folder: Path, path: str, **method: Any) -> ModelCard:
    cfg = RunConfig(cluster=ClusterConfig(name="local"))
    cfg.model.path, cfg.method.name, cfg.data.source = path, "sdft", "rows.jsonl"
    for name, value in method.items():
        setattr(cfg.method, name, value)
    write_model_card(folder, [("", cfg)], 12, SUMMARY)
    return ModelCard.load(folder / "README.md")


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("org/small-1.5b", "org/small-1.5b"),
        ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("/models/own", None),
    ],
)
def test_hubs_read_where_the_model_comes_from_and_what_it_is_for(tmp_path: Path, path: str, base: str | None) -> None:
    card = make_card(tmp_path, path)
    assert card.data.base_model == base
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert card.data.tags == ["sdft_ray", "sdft"]
    assert yaml.safe_load((tmp_path / "README.md").read_text().split("---")[1])


def test_people_read_data_settings_and_results(tmp_path: Path) -> None:
    text = make_card(tmp_path, "org/small").text
    for part in ("number of steps 12", "`rows.jsonl`", "| teacher.ema_decay |", "| taught accuracy |  | 0.75 |", "abc"):
        assert part in text
    assert "teacher." not in make_card(tmp_path, "org/small", target=Target.TOKEN).text


def test_people_read_what_was_rehearsed(tmp_path: Path) -> None:
    cfg = RunConfig(cluster=ClusterConfig(), batch_size=8, data=DataConfig(rehearsal=RehearsalConfig(share=0.25)))
    write_model_card(tmp_path, [("", cfg)], 12, SUMMARY)
    text = (tmp_path / "README.md").read_text()
    assert "- `builtin:facts`, and rehearsal: 2 of the 8 rows of a batch are prompts of `builtin:general`" in text


def test_the_card_of_an_adapter_says_that_it_is_one_and_which(tmp_path: Path) -> None:
    cfg = RunConfig(cluster=ClusterConfig(name="local"))
    cfg.model.path, cfg.model.adapter = "org/small", AdapterConfig(kind=AdapterKind.LORA, rank=4, targets=["q_proj"])
    write_model_card(tmp_path, [("", cfg)], 12, SUMMARY)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.library_name, card.data.base_model) == ("peft", "org/small")
    assert "This adapter for `org/small` comes from training with sdft_ray" in card.text
    for line in ("| model.adapter.rank | 4 |", "| model.adapter.alpha | 16 |", "| model.adapter.targets | q_proj |"):
        assert line in card.text
