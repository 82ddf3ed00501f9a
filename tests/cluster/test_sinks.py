"""By what wandb finds the runs of an experiment."""

from sdft_ray.cluster.sinks import labels
from sdft_ray.config import ClusterConfig, RunConfig


def make_config(**settings: object) -> RunConfig:
    return RunConfig(cluster=ClusterConfig(), **settings)  # type: ignore[arg-type]


def test_the_seeds_of_an_experiment_are_one_group_and_keep_names_of_their_own() -> None:
    runs = [labels(make_config(seed=seed), f"facts-seed-{seed}", ["facts", "tools"], str) for seed in (0, 1)]
    assert [run.name for run in runs] == ["facts-seed-0", "facts-seed-1"]
    assert {run.group for run in runs} == {"facts"}
    assert [run.tags for run in runs] == [("sdft", f"seed-{seed}", "facts", "tools") for seed in (0, 1)]


def test_a_group_that_is_set_holds_runs_of_several_names() -> None:
    cfg = make_config()
    cfg.tracking.wandb_group = "paper"
    assert labels(cfg, "billing", [""], str).group == "paper"
    assert labels(cfg, "billing", [""], str).tags == ("sdft", "seed-0")
