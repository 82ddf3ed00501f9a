"""Every metric, declared once: its key, its unit, its meaning.

A key is `role/quantity_unit`; counts have no unit. `{set}` in a key stands for the name of an evaluation set, `{k}`
for the k of pass@k.

What belongs to a batch (losses, lengths, the learner's times) is that of the step's batch. What goes on while batches
overlap (the times and tokens of rollouts and scoring) is what was spent since the last step was recorded, whatever
batch it was spent on.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SET = "{set}"
K = "{k}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One number of a step or of an evaluation."""

    key: str
    unit: str
    meaning: str

    def set_name(self, key: str) -> str | None:
        """The evaluation set in `key`, "" where this metric has none, None where `key` is another metric."""
        if SET not in self.key:
            return "" if key == self.key else None
        pattern = re.escape(self.key).replace(re.escape(SET), "([^/]+)").replace(re.escape(K), "[^/_]+")
        match = re.fullmatch(pattern, key)
        return match.group(1) if match else None


def _metric(key: str, unit: str, meaning: str) -> Metric:
    return Metric(key=key, unit=unit, meaning=meaning)


METRICS: tuple[Metric, ...] = (
    _metric("loop/step_s", "s", "wall time, from the wait for a batch to everybody's new weights"),
    _metric("loop/rollout_s", "s", "time in which at least one completion was being made"),
    _metric("loop/score_s", "s", "time in which at least one completion was being scored"),
    _metric("loop/wait_s", "s", "time in which the learner had nothing to do because samples were missing"),
    _metric("loop/load_weights_s", "s", "time until every rollout and teacher worker held the new weights"),
    _metric("weights/publish_s", "s", "time until the learner had made the new weights available"),
    _metric("weights/load_s", "s", "time from there until the workers of the slowest role had taken them over"),
    _metric("weights/published_bytes", "bytes", "size of the published weights, counted once for all who read them"),
    _metric("loop/staleness_max", "steps", "versions the oldest completion was behind the learner"),
    _metric("loop/staleness_bound", "steps", "the most that may be: max_staleness"),
    _metric("loop/steps_left", "steps", "steps that the run has still to take"),
    _metric("turns/changes", "changes", "times the device went from one role to another, with cluster.turns=true"),
    _metric("turns/change_s", "s", "time in which workers fell asleep or woke, and nothing was computed"),
    _metric("faults/lost_workers", "workers", "workers that have died, or whose engine has"),
    _metric("faults/hung_workers", "workers", "workers that were killed since they did not answer"),
    _metric("faults/replaced_workers", "workers", "workers that serve in the place of lost ones"),
    _metric("faults/failed_starts", "starts", "starts of such workers that have failed"),
    _metric("faults/given_up_workers", "workers", "workers that are not started again: the budget is spent"),
    _metric("faults/joined_workers", "workers", "workers that have joined the running job"),
    _metric("faults/left_workers", "workers", "workers that have left it behind their last answer"),
    _metric("faults/recovery_s", "s", "longest time from a loss to the worker, or learner, in its place"),
    _metric("faults/rescored_samples", "samples", "samples that were scored again since their payload was lost"),
    _metric("faults/learner_restarts", "restarts", "times the learner was built anew from a checkpoint"),
    _metric("faults/dropped_samples", "samples", "samples that were dropped with the weights that had made them"),
    _metric("loop/alarms", "alarms", "rules of tracking/alarms.py that have been broken for too long"),
    _metric("rollout/tokens", "tokens", "completion tokens that were sampled; those given or recorded before are none"),
    _metric("rollout/tokens_per_s", "tokens/s", "rollout/tokens over loop/rollout_s"),
    _metric("rollout/completion_tokens_mean", "tokens", "mean length of a completion"),
    _metric("rollout/truncated_share", "share", "completions cut at the length limit"),
    _metric("rollout/copied_share", "share", "runs of 4 tokens of a completion that stand in its demonstration, mean"),
    _metric("teacher/tokens", "tokens", "completion tokens that were scored"),
    _metric("teacher/tokens_per_s", "tokens/s", "teacher/tokens over loop/score_s"),
    _metric("learner/loss", "nats", "what is minimised: masked, normalised, corrected"),
    _metric("learner/divergence_nats", "nats", "divergence from the teacher, mean over counted tokens"),
    _metric("learner/divergence_first_nats", "nats", "the same at completion positions 0 to 7"),
    _metric("learner/divergence_early_nats", "nats", "the same at completion positions 8 to 31"),
    _metric("learner/divergence_middle_nats", "nats", "the same at completion positions 32 to 127"),
    _metric("learner/divergence_last_nats", "nats", "the same at completion positions 128 and beyond"),
    _metric("rehearsal/rows", "rows", "rehearsal rows of the batch"),
    _metric("rehearsal/divergence_nats", "nats", "divergence of rehearsal rows from the initial weights, mean a token"),
    _metric("rehearsal/taught_divergence_nats", "nats", "the same of the batch's other rows, from their teacher"),
    _metric("rehearsal/completion_tokens_mean", "tokens", "mean length of a rehearsed completion"),
    _metric("learner/student_entropy_nats", "nats", "entropy of the student, mean over counted tokens"),
    _metric("learner/teacher_entropy_nats", "nats", "entropy of the teacher, mean over counted tokens"),
    _metric("learner/grad_norm", "1", "global gradient norm before clipping"),
    _metric("learner/learning_rate", "1", "learning rate of the step"),
    _metric("learner/mismatch_max_nats", "nats", "largest |trainer logprob - sampler logprob|"),
    _metric("learner/correction_mean", "1", "mean of exp(trainer - sampler logprob), clipped"),
    _metric("learner/counted_tokens", "tokens", "completion tokens that carry loss"),
    _metric("learner/counted_share", "share", "completion tokens that carry loss, of all"),
    _metric("learner/uncounted_samples", "samples", "samples without a counted token: exactly no loss"),
    _metric("learner/train_tokens", "tokens", "prompt and completion tokens the learner read"),
    _metric("learner/tokens_per_s", "tokens/s", "learner/train_tokens over learner/forward_backward_s"),
    _metric(
        "learner/padded_share", "share", "tokens the learner's network read in vain: padding, and repeated samples"
    ),
    _metric("learner/shared_share", "share", "tokens of common prefixes that were read once for all their samples"),
    _metric("learner/matmul_share", "share", "least time of forward and backward, at a plain matrix product's rate"),
    _metric("learner/forward_backward_s", "s", "forward and backward passes, in the slowest rank"),
    _metric("learner/optimizer_s", "s", "gradient exchange, clipping and AdamW"),
    _metric("learner/ema_s", "s", "blending the student into the teacher"),
    _metric("learner/save_s", "s", "time in which training stood still for a checkpoint"),
    _metric("learner/checkpoint_age_s", "s", "time since the newest checkpoint was complete, or since the run's start"),
    _metric("learner/failed_saves", "saves", "checkpoints that could not be written"),
    _metric("loop/damaged_checkpoints", "checkpoints", "damaged ones that resume=auto has passed over"),
    # Before the plain accuracy, whose pattern would take "_lenient" for the end of a set's name.
    _metric("evaluation/{set}_lenient_accuracy", "share", "the same by the milder rule of KNOWLEDGE and JUDGE"),
    _metric("evaluation/{set}_accuracy", "share", "greedy answers that are right, of those that could be scored"),
    _metric(
        "evaluation/{set}_unfinished", "answers", "greedy answers without evaluation.skip_until: wrong, all of them"
    ),
    _metric("evaluation/{set}_unscored", "answers", "greedy answers that the judge gave no verdict on"),
    _metric("evaluation/{set}_pass_at_{k}", "share", "chance that one of k sampled answers is right, unbiased"),
    _metric("evaluation/judge_prompts", "prompts", "answers for the judge, sampled ones included"),
    _metric("evaluation/judge_requests", "requests", "what was sent to the judge for them: the cache had the others"),
    _metric("evaluation/judge_retries", "requests", "how many of these requests repeated one that had failed"),
    _metric("evaluation/prior_logprob_nats", "nats", "logprob per token of answers that were never taught"),
    _metric(
        "evaluation/context_gap_nats", "nats", "logprob per token that a demonstration gains by standing in the prompt"
    ),
    _metric(
        "retention/base_student_kl_nats", "nats", "KL(base || student) per token of what the base writes to prompts"
    ),
    _metric(
        "retention/student_base_kl_nats", "nats", "KL(student || base) per token, at prefixes that the base writes"
    ),
    _metric("harness/mean_accuracy", "share", "unweighted mean of the paper's six prior capabilities"),
    _metric("harness/{set}_accuracy", "share", "lm_eval's accuracy on a benchmark (sdft_ray/evaluation/harness)"),
)

# Gauges of every worker by itself; they are in no line of metrics.jsonl.
WORKER_METRICS: tuple[Metric, ...] = (
    _metric("worker/weight_version", "steps", "version of the weights that the worker holds"),
    _metric("worker/peak_memory_gib", "GiB", "most memory that the worker and its child processes have used"),
    _metric("worker/peak_gpu_memory_gib", "GiB", "most that torch has reserved on the worker's fullest GPU"),
)
WORKER_ROLES = ("rollout", "teacher", "learner")

RATES = (
    ("rollout/tokens_per_s", "rollout/tokens", "loop/rollout_s"),
    ("teacher/tokens_per_s", "teacher/tokens", "loop/score_s"),
    ("learner/tokens_per_s", "learner/train_tokens", "learner/forward_backward_s"),
)


def rates(metrics: Mapping[str, float]) -> dict[str, float]:
    """Tokens per second of every role that had something to do, over the time of its own phase."""
    return {
        key: metrics[tokens] / metrics[seconds]
        for key, tokens, seconds in RATES
        if metrics.get(tokens) and metrics.get(seconds)
    }


def find_metric(key: str) -> tuple[Metric, str]:
    """The declaration of `key` and the evaluation set it names ("" for none).

    Raises:
        KeyError: nothing declares it.
    """
    for metric in METRICS:
        set_name = metric.set_name(key)
        if set_name is not None:
            return metric, set_name
    raise KeyError(f"metric {key} is not declared in sdft_ray/tracking/metrics.py")


def is_evaluation(keys: Iterable[str]) -> bool:
    """True when the keys of a line of metrics.jsonl are those of an evaluation, and not of a step."""
    return any(key.startswith(("evaluation/", "retention/", "harness/")) for key in keys)


def check_declared(keys: Iterable[str]) -> None:
    """Raises `KeyError` for the first key that nothing declares."""
    for key in keys:
        find_metric(key)
