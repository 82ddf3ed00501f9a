"""The table of several seeds."""

import io
from pathlib import Path

from rich.console import Console

from sdft_ray.report.seeds import print_results
from sdft_ray.statistics import mean_interval
from tests.report.folders import settings_of, step_line, summary_of, trained_run, write_run

KEY = "evaluation/taught_accuracy"


def printed(*folders: Path) -> str:
    output = io.StringIO()
    print_results(folders, Console(file=output, width=120, highlight=False))
    return output.getvalue().replace("\N{NARROW NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


def evaluated(folder: Path, seed: int, after: float, **sections: dict[str, object]) -> Path:
    lines = [{"step": 0, "time_s": 0.0, KEY: 0.125}, step_line(4, learner__loss=0.1)]
    lines.append({"step": 4, "time_s": 4.0, KEY: after})
    return write_run(folder, settings_of("sft", seed, **sections), lines, summary=summary_of(4))


def test_means_stand_before_and_after_training_with_the_interval_over_seeds(tmp_path: Path) -> None:
    values = {0: 0.5, 1: 0.7, 2: 0.9}
    text = printed(*(evaluated(tmp_path / f"one-seed-{seed}", seed, value) for seed, value in values.items()))
    interval = mean_interval(list(values.values()))
    row = next(line for line in text.splitlines() if line.lstrip().startswith("Accuracy, taught"))
    assert row.split() == ["Accuracy,", "taught", "12.5", "%", "70.0", "±", f"{100 * (interval.high - 0.7):.1f}", "%"]
    assert "sft: means over 3 seeds, with 95 % intervals (Student's t)" in text


def test_every_final_metric_has_its_row(tmp_path: Path) -> None:
    text = printed(*(trained_run(tmp_path / f"one-seed-{seed}", "sdft", seed) for seed in (0, 1)))
    for title in ("Accuracy, taught", "Accuracy, paraphrased", "Accuracy, prior", "Logprob of prior knowledge, nats"):
        assert title in text
    assert f"mode=report 'runs=[{tmp_path}/one-seed-0,{tmp_path}/one-seed-1]'" in text


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    text = printed(evaluated(tmp_path / "one-seed-0", 0, 0.5))
    assert "±" not in text
    assert "sft: means over 1 seed, which has no interval" in text


def test_a_run_kept_from_other_settings_is_not_averaged_with_the_rest(tmp_path: Path) -> None:
    kept = evaluated(tmp_path / "one-seed-0", 0, 0.9, loss={"divergence": "REVERSE_KL"})
    text = printed(kept, *(evaluated(tmp_path / f"one-seed-{seed}", seed, 0.5) for seed in (1, 2)))
    assert "divergence=REVERSE_KL: means over 1 seed" in text
    assert "divergence=FORWARD_KL: means over 2 seeds" in text
