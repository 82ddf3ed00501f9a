"""mode=preflight: a teacher with the student's weights and the student's prompt has to say what the student says.

One real example goes the way of every sample: completed, scored, its payload opened by a learner rank. What is not 0
there is no difference of prompts: one side reads other tokens, other positions, another head or other weights.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sdft_ray.cluster.guards import ENGINE_TOLERANCE, coarser, gap_between
from sdft_ray.cluster.preflight import Line
from sdft_ray.cluster.stages import Stages
from sdft_ray.cluster.topology import Roles
from sdft_ray.config import Precision, RunConfig
from sdft_ray.examples import TokenizedExample
from sdft_ray.records import make_sample
from sdft_ray.rollout.completions import GivenCompletions
from sdft_ray.teacher.pool import TeacherPool

WHAT = "divergence"
REMEDY = (
    "set teacher.backend=TRANSFORMERS or teacher.payload=LOGITS to find which side computes something else, and do not "
    "train before"
)


async def check_zero_divergence(stages: Stages, roles: Roles) -> list[Line]:
    """The line of the first real example; none without a teacher, of which nobody asks anything.

    It ends what can be trained: the learner ranks are left with a gradient that belongs to no step.

    Raises:
        NonFiniteError: something of it is NaN or infinite.
    """
    if not isinstance(roles.teacher, TeacherPool):
        return []
    first = next(iter(stages))
    cfg, inputs = stages.shared
    example = plainly_taught(first.inputs.examples.first(first.cfg.batch_size), inputs.max_teacher_len)
    reason = why_not_zero(cfg, is_other_model=inputs.teacher_path != inputs.model_path)
    if example is None:
        reason = reason or f"no prompt of the first batch fits into the {inputs.max_teacher_len} tokens of the teacher"
    if reason or example is None:
        return [Line(what=WHAT, value=f"not looked at: {reason}", is_looked_at=False)]
    sampler = roles.rollouts if cfg.method.samples and roles.rollouts is not None else GivenCompletions()
    rollout = await sampler.complete(example)
    scores = await roles.teacher.score(example, rollout)
    report = await roles.learner.try_sample(make_sample(example, rollout, scores))
    precision = coarser(cfg.model.dtype, cfg.learner.precision, cfg.teacher.payload_precision)
    return [divergence_line(example.example_id, report.views.divergence.tolist(), precision)]


def plainly_taught(examples: Iterable[TokenizedExample], max_teacher_len: int) -> TokenizedExample | None:
    """The first example with the student's prompt for the teacher, too, if that can read it.

    Rehearsal is left out, which the weights that the run began with score.
    """
    for example in examples:
        longest = len(example.prompt_tokens) + max(example.max_new_tokens, len(example.demonstration_tokens))
        if not example.is_rehearsal and longest <= max_teacher_len:
            return replace(example, teacher_prompt_tokens=example.prompt_tokens)
    return None


def why_not_zero(cfg: RunConfig, *, is_other_model: bool) -> str:
    """Why teacher and student differ by design before the first step, under one prompt; "" where they do not."""
    if is_other_model:
        return f"teacher.path={cfg.teacher.path} is another model than the student"
    if cfg.model.dropout or cfg.model.adapter.dropout:
        return "the student computes with dropout, the teacher without"
    return ""


def divergence_line(example_id: str, divergence: Sequence[float], precision: Precision) -> Line:
    """Whether the divergence [T, nats] of an example is 0 but for rounding.

    A divergence is an average of differences of logprobs, so the bounds for those bound it as well.
    """
    gap, tolerance = gap_between(divergence, [0.0] * len(divergence)), ENGINE_TOLERANCE[precision]
    is_zero = gap.largest <= tolerance.largest and gap.mean <= tolerance.mean  # NaN is not
    rounding = f"{tolerance.largest:g} and {tolerance.mean:g} are what rounding in {precision.name} explains"
    return Line(
        what=WHAT,
        value=f"of a teacher with the student's prompt, example {example_id}, {len(divergence)} tokens: at most "
        f"{gap.largest:.1e} nats, {gap.mean:.1e} on average",
        problem="" if is_zero else f"has to be 0: {rounding}",
        remedy=REMEDY,
    )
