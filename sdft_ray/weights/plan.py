"""Weight sync, decided once: which weights leave the learner, what carries them, who uses them where they lie.

The driver makes the plan from the settings and the number of nodes it has found. Roles, ranks, pools and the planner
read it, and none of them derives any of it again.
"""

from dataclasses import dataclass

from sdft_ray.config import Channel, Precision, RunConfig, Target, TeacherBackend, TeacherEma, TeacherWeights
from sdft_ray.weights.channel import RankWeights, Sender, WeightKind, ends_of


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightPlan:
    """The way of every set of weights in one run."""

    student_channel: Channel  # carries the student's weights; AUTO is settled
    average_channel: Channel  # carries the moving average
    teacher_kind: WeightKind | None  # what teachers score with; None for a frozen one, and where there is none
    teachers_average: bool  # teachers average the student's publications themselves
    engines_map: bool  # rollout engines compute with published memory, but for the weights that they pack
    teachers_map: bool  # teachers score with published memory
    teachers_keep_initial: bool  # they hold the weights the run began with as well, a second network, for rehearsal
    masters_in_place: frozenset[WeightKind]  # the learner keeps these fp32 weights in the memory it publishes
    whole_masters: bool  # one rank holds all weights, gradients and moments in fp32
    heads_in_place: bool  # a teacher's head is a view of the learner's weights, and not a copy for each version

    @property
    def keeps_average(self) -> bool:
        """True when the learner keeps a moving average of the student."""
        return self.teacher_kind is WeightKind.EMA

    @property
    def published(self) -> tuple[WeightKind, ...]:
        """The sets of weights that leave the learner, the student's first.

        Teachers that average by themselves load the learner's average once, and only if the run is a resumed one.
        """
        return tuple(WeightKind) if self.keeps_average and not self.teachers_average else (WeightKind.STUDENT,)

    def channel_of(self, kind: WeightKind) -> Channel:
        """The channel that carries the weights of `kind`."""
        return self.student_channel if kind is WeightKind.STUDENT else self.average_channel

    def make_senders(self, weights: RankWeights) -> dict[WeightKind, Sender]:
        """The ends of a learner rank: one for each channel, by the weights that it sends."""
        channels = {kind: self.channel_of(kind) for kind in WeightKind}
        senders = {channel: ends_of(channel).sender(weights) for channel in dict.fromkeys(channels.values())}
        return {kind: senders[channel] for kind, channel in channels.items()}


def plan_weights(cfg: RunConfig, num_nodes: int) -> WeightPlan:
    """The plan of a run on a Ray cluster of `num_nodes` nodes."""
    weights, cluster, teacher = cfg.weights, cfg.cluster, cfg.teacher
    # Workers that join may do so on another node.
    student_channel = weights.choose_channel(max(num_nodes, 2) if cluster.rollout.is_elastic else num_nodes)
    kind = _teacher_kind(cfg)
    whole = cfg.learner.holds_all(cluster.learner.num_workers)
    fp32_workers = cfg.model.dtype is Precision.FLOAT32
    # What is in fp32 on a CPU is what its workers compute with: publishing it there moves nothing.
    publishes_masters = student_channel.reach.one_node and fp32_workers and cluster.learner.device == "cpu"
    # Published memory changes while the learner takes a step. On-policy nothing is sampled or scored meanwhile.
    stands_still = student_channel.reach.one_node and cfg.max_staleness == 0
    # An adapter's average is small, and made anew with every step.
    masters = {WeightKind.STUDENT: whole, WeightKind.EMA: kind is WeightKind.EMA and not cfg.model.adapter.is_on}
    return WeightPlan(
        student_channel=student_channel,
        average_channel=Channel.OBJECT_STORE if student_channel.reach.gpu_to_gpu else student_channel,
        teacher_kind=kind,
        teachers_average=kind is WeightKind.EMA and weights.teacher_ema is TeacherEma.RECEIVER,
        engines_map=stands_still and cluster.rollout.device == "cpu",
        teachers_map=stands_still
        and kind is not None
        and cluster.teacher.device == "cpu"
        and teacher.backend is TeacherBackend.TRANSFORMERS
        and weights.teacher_ema is TeacherEma.LEARNER,  # who averages by itself writes to its weights: they are its own
        teachers_keep_initial=kind is not None and cfg.data.rehearsal.is_on,
        masters_in_place=frozenset(each for each in WeightKind if publishes_masters and masters[each]),
        whole_masters=whole,
        # On-policy, all samples of a version are trained on before the weights change.
        heads_in_place=whole and fp32_workers and cfg.max_staleness == 0 and kind is not None,
    )


def _teacher_kind(cfg: RunConfig) -> WeightKind | None:
    if cfg.method.target is not Target.TEACHER:
        return None
    return {TeacherWeights.EMA: WeightKind.EMA, TeacherWeights.LIVE: WeightKind.STUDENT}.get(cfg.teacher.weights)
