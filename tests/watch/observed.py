"""A run as mode=top finds it, in memory."""

from dataclasses import replace
from typing import Any

from sdft_ray.tracking.run_status import RunStatus, WorkerPlace
from sdft_ray.tracking.run_view import Event, RunView
from sdft_ray.watch.frame import Look

NOW = 1_800_000_000.0
ROLES = (("rollout", 4), ("teacher", 2), ("learner", 4))


def make_status(**changes: Any) -> RunStatus:
    workers = tuple(
        WorkerPlace(role=role, rank=rank, node=f"10.0.0.{1 + rank % 2}", serves=True, num_open=3)
        for role, number in ROLES
        for rank in range(number)
    )
    status = RunStatus(
        mark="host:/runs/billing",
        method="sdft_paper",
        model="/models/SmolLM2-135M-Instruct",
        cluster="8xA100",
        address="10.0.0.1:6379",
        host="host",
        process_id=77,
        started_at=NOW - 723,
        written_at=NOW - 1,
        num_steps=40,
        stages=(("facts", 20), ("tools", 40)),
        step=25,
        going_on=(),
        versions={"learner": 25, "rollout": 25, "teacher": 25},
        workers=workers,
    )
    return replace(status, **changes)


def make_step(step: int, **changes: Any) -> dict[str, Any]:
    line = {
        "step": step,
        "loop/step_s": 4.0,
        "loop/rollout_s": 2.0,
        "loop/score_s": 1.0,
        "learner/forward_backward_s": 3.0,
        "loop/wait_s": 0.001,
        "rollout/tokens_per_s": 812.4,
        "learner/tokens_per_s": 1234.5,
        "learner/loss": 1.0 / step,
        "learner/divergence_nats": 0.5 / step,
        "learner/student_entropy_nats": 2.0,
        "rollout/completion_tokens_mean": 13.25,
        "rollout/truncated_share": 0.25,
        "loop/staleness_max": 0.0,
        "loop/alarms": 0.0,
    }
    return line | changes


def make_view(**changes: Any) -> RunView:
    view = RunView(
        name="billing",
        folder="/runs/billing",
        status=make_status(),
        steps=tuple(make_step(step) for step in range(6, 26)),
        first_evaluation={"step": 0, "evaluation/taught_accuracy": 0.0, "evaluation/prior_logprob_nats": -1.073},
        evaluation={"step": 20, "evaluation/taught_accuracy": 0.75, "evaluation/prior_logprob_nats": -0.786},
        events=(
            Event(at=NOW - 60, text="lost           rollout worker 1 on 10.0.0.2 was lost: its process has died"),
            Event(at=NOW - 40, text="replaced       rollout worker 1 serves again after 20.0 s"),
            Event(at=NOW - 5, text="checkpoint     step-000025"),
        ),
        told="step 25/40",
        summary=None,
    )
    return replace(view, **changes)


def make_look(*, is_alive: bool = True, now: float = NOW, **changes: Any) -> Look:
    return Look(view=make_view(**changes), is_alive=is_alive, now=now)
