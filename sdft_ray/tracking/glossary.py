"""Every metric with unit, meaning and what a healthy value is, as a page for people who watch a run.

Unit and meaning are those of `metrics.py`; what is healthy stands here, with the bounds that alarms go by.
`python -m sdft_ray.tracking.glossary` prints the page, which is kept in docs/metrics.md.
"""

from itertools import groupby

from sdft_ray.config import AlarmsConfig
from sdft_ray.tracking.metrics import METRICS, WORKER_METRICS, Metric

ALARM = AlarmsConfig()
NONE_LOST = "0; more, and `faults.jsonl` says which and why"

ROLES = {
    "loop": "Where the time of a step goes, and how far samples are behind the weights.",
    "weights": "New weights on their way from the learner to the workers.",
    "turns": "Roles in turns on one device; absent without `cluster.turns`.",
    "faults": "What was lost and replaced; absent from steps in which nothing happened.",
    "rollout": "What the student samples.",
    "teacher": "What the teacher scores.",
    "learner": "What is learned. These are the metrics to look at first.",
    "rehearsal": "Rows of `data.rehearsal`; absent without it.",
    "evaluation": "Answers to the sets of `evaluation.sets`, before, in the course of and after training.",
    "retention": "How far the student has moved away from the model the run began with, on general prompts.",
    "worker": "Gauges of every worker by itself; they are in no line of `metrics.jsonl`.",
    "harness": "Benchmarks of lm-evaluation-harness; absent without `harness.tasks`.",
}

HEALTHY = {
    "loop/step_s": "steady; the first steps are longer, since engines and kernels warm up",
    "loop/rollout_s": "steady; it grows with the completions' length",
    "loop/score_s": "steady; longer than `loop/rollout_s`: more teacher workers help",
    "loop/wait_s": "small with `max_staleness` above 0; on-policy the time of sampling and scoring",
    "loop/load_weights_s": "a small part of a step; else look at `weights.channel`",
    "weights/publish_s": "a small part of a step",
    "weights/load_s": "a small part of a step, and much less than `weights.timeout_s`",
    "weights/published_bytes": "the same in every step; with an adapter a few percent of the weights",
    "loop/staleness_max": "0 on-policy, else at most `max_staleness`",
    "loop/steps_left": "falls by one a step",
    "loop/staleness_bound": "`max_staleness`",
    "turns/changes": "4 a step",
    "turns/change_s": "less than what the roles compute",
    "faults/lost_workers": NONE_LOST,
    "faults/hung_workers": NONE_LOST,
    "faults/replaced_workers": "as many as were lost or hung",
    "faults/failed_starts": "0",
    "faults/given_up_workers": "0; more, and the run goes on with fewer workers",
    "faults/left_workers": "as many as were taken away",
    "faults/joined_workers": "as many as were added",
    "faults/recovery_s": "about the time in which a worker starts",
    "faults/rescored_samples": "0, or few behind a loss",
    "faults/learner_restarts": "0; `faults.learner_restarts` bounds it",
    "faults/dropped_samples": "0, or those of the steps that a lost learner has cost",
    "loop/alarms": "0; more, and `alarms.jsonl` says which rule",
    "rollout/tokens": "about `batch_size` times `rollout/completion_tokens_mean`",
    "rollout/tokens_per_s": "steady",
    "rollout/completion_tokens_mean": f"falls to short answers; below {ALARM.length_share:g} of its first steps: alarm",
    "rollout/truncated_share": f"falls in training; above {ALARM.truncated_share:g} and growing length: alarm",
    "rollout/copied_share": "rises with what is learned; near 1 at the first step: the prompt holds the answer",
    "teacher/tokens": "as `rollout/tokens` on-policy",
    "teacher/tokens_per_s": "steady",
    "learner/loss": f"noisy, falling over epochs; a leap beyond {ALARM.spike_factor:g} times its mean: alarm",
    "learner/divergence_nats": "above 0 at first and falling; 0 at once: the teacher knows no more than the student",
    "learner/divergence_first_nats": "falls with the others",
    "learner/divergence_early_nats": "falls with the others",
    "learner/divergence_middle_nats": "falls with the others; absent where completions are shorter",
    "learner/divergence_last_nats": "falls with the others; absent where completions are shorter",
    "rehearsal/rows": "`data.rehearsal.share` of the batch",
    "rehearsal/divergence_nats": "0 at first and small: it is what is forgotten of the rehearsed prompts",
    "rehearsal/taught_divergence_nats": "as `learner/divergence_nats` without rehearsal",
    "rehearsal/completion_tokens_mean": "moves slowly",
    "learner/student_entropy_nats": f"moves slowly; below {ALARM.entropy_share:g} of its first steps: alarm",
    "learner/teacher_entropy_nats": "a little below the student's: the demonstration makes the teacher surer",
    "learner/grad_norm": f"of one order of magnitude; below {ALARM.grad_norm:g} nothing is learned: alarm",
    "learner/learning_rate": "warm-up, then as `learner.schedule` says",
    "learner/mismatch_max_nats": f"1e-5 to 1e-4 in fp32, 0.5 in bf16; on-policy above {ALARM.mismatch_nats:g}: alarm",
    "learner/correction_mean": "1 on-policy in fp32, near it otherwise",
    "learner/counted_tokens": "most of the completion tokens",
    "learner/counted_share": f"near 1; below {ALARM.counted_share:g}: alarm",
    "learner/uncounted_samples": "0, or few; else lower `loss.skip_first_tokens`",
    "learner/train_tokens": "prompts and completions of the batch; with common prefixes each is counted",
    "learner/tokens_per_s": "steady",
    "learner/padded_share": "near 0",
    "learner/shared_share": "0 without common prefixes; more saves work",
    "learner/matmul_share": "0.5 to 0.65 on two quiet CPU cores; on GPUs it was not measured",
    "learner/forward_backward_s": "most of the learner's part of a step",
    "learner/optimizer_s": "less than `learner/forward_backward_s`",
    "learner/ema_s": "a small part of a step",
    "learner/save_s": "0 but in steps with a checkpoint; small with `learner.saving=BACKGROUND`",
    "learner/checkpoint_age_s": "below the time of `checkpoint_every` steps",
    "learner/failed_saves": "0; more, and the disk is full or broken",
    "loop/damaged_checkpoints": "0; more, and `checkpoints/earlier/` has them",
    "evaluation/{set}_lenient_accuracy": "at least the strict accuracy",
    "evaluation/{set}_accuracy": "rises for what is taught, and stays for prior knowledge",
    "evaluation/{set}_unfinished": "0; more, and `evaluation.max_new_tokens` is too low",
    "evaluation/{set}_unscored": "0; more, and the judge did not answer",
    "evaluation/{set}_pass_at_{k}": "at least the accuracy, and rising with k",
    "evaluation/judge_prompts": "the sets' questions times their samples",
    "evaluation/judge_requests": "at most `evaluation/judge_prompts`",
    "evaluation/judge_retries": "0, or few; else the endpoint is overloaded",
    "evaluation/prior_logprob_nats": "stays; it may rise with a change of style, so read it with prior accuracy",
    "evaluation/context_gap_nats": "above 0 before training and falling: what was in the prompt is in the weights then",
    "retention/base_student_kl_nats": "0 before training, rising slowly",
    "retention/student_base_kl_nats": "the same",
    "harness/mean_accuracy": "stays",
    "harness/{set}_accuracy": "stays",
    "worker/weight_version": "that of the others of its role",
    "worker/peak_memory_gib": "near what `mode=plan` says, and steady",
    "worker/peak_gpu_memory_gib": "below the GPU's memory; steady",
}


def page() -> str:
    """All metrics as a Markdown page."""
    lines = [
        "# Metrics",
        "",
        "Every number of `metrics.jsonl`, of the terminal's table and of the dashboards. Ray exports `learner/loss` as",
        "`ray_sdft_learner_loss`. `{set}` is the name of an evaluation set, `{k}` the k of pass@k. What is healthy is",
        "said of a run that goes well, with the default bounds of `tracking.alarms`; no value of it is a promise.",
        "`python -m sdft_ray.tracking.glossary > docs/metrics.md` makes this page anew.",
    ]
    order = list(ROLES)
    by_role = sorted((*METRICS, *WORKER_METRICS), key=lambda metric: order.index(_role(metric)))
    for role, metrics in groupby(by_role, key=_role):
        lines += ["", f"## {role}", "", ROLES[role], "", "| metric | unit | meaning | healthy |", "|---|---|---|---|"]
        lines += [
            f"| `{metric.key}` | {metric.unit} | {_cell(metric.meaning)} | {_cell(HEALTHY[metric.key])} |"
            for metric in metrics
        ]
    return "\n".join(lines) + "\n"


def _role(metric: Metric) -> str:
    return metric.key.partition("/")[0]


def _cell(text: str) -> str:
    """Text that a table's row can hold."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
