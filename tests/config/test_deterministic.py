import pytest

from sdft_ray.config import ClusterConfig, RunConfig
from sdft_ray.errors import ConfigError


def test_a_deterministic_run_scores_one_by_one_and_plans_no_step_ahead() -> None:
    cfg = RunConfig(cluster=ClusterConfig(), deterministic=True)
    assert cfg.teacher.tokens_scored_together == 0
    assert not cfg.rollout.async_scheduling


def test_by_default_what_waits_is_scored_together() -> None:
    cfg = RunConfig(cluster=ClusterConfig())
    assert cfg.teacher.tokens_scored_together == cfg.teacher.max_tokens_per_forward
    assert cfg.rollout.async_scheduling


def test_a_deterministic_run_whose_samples_may_lag_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"deterministic=True: cannot hold with max_staleness=1: .*max_staleness=0"):
        RunConfig(cluster=ClusterConfig(), deterministic=True, max_staleness=1)
