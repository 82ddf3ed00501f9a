"""What is planned for: the settings, the network's shape, and how long its sequences are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdft_ray.config import Precision, RunConfig
from sdft_ray.data.mix import read_examples
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.rehearsal import read_rehearsal
from sdft_ray.models.adapter import AVERAGE_RANK, num_factor_elements
from sdft_ray.models.arithmetic import NetworkShape, read_shape
from sdft_ray.models.folder import load_tokenizer
from sdft_ray.models.resolve import resolve_model
from sdft_ray.planning.shapes import planned_shape
from sdft_ray.weights.channel import WeightKind
from sdft_ray.weights.plan import WeightPlan, plan_weights

ELEMENT_BYTES = {Precision.FLOAT32: 4, Precision.BFLOAT16: 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Tokens of a typical sample. Sampled completions are taken to be as long as they may get."""

    prompt: int
    teacher_prompt: int
    completion: int
    origin: str  # where they are from, for the reader


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """One step of a run, in numbers."""

    cfg: RunConfig
    shape: NetworkShape
    lengths: Lengths
    roles: tuple[str, ...]  # those the run would start

    @property
    def worker_element_bytes(self) -> int:
        """Of the weights in rollout and teacher workers."""
        return ELEMENT_BYTES[self.cfg.model.dtype]

    @property
    def learner_element_bytes(self) -> int:
        """Of the learner's forward and backward pass."""
        return ELEMENT_BYTES[self.cfg.learner.precision]

    @property
    def weights(self) -> WeightPlan:
        """The plan of a run on as many nodes as the settings declare."""
        return plan_weights(self.cfg, self.cfg.cluster.num_nodes)

    @property
    def num_trained(self) -> int:
        """Parameters that are trained: an adapter's, or all."""
        return num_factor_elements(self.shape, self.cfg.model.adapter) or self.shape.num_parameters

    def num_published(self, kind: WeightKind) -> int:
        """Parameters of one publication; an adapter's average has a higher rank than the adapter."""
        has_average_of_its_own = self.cfg.model.adapter.is_on and kind is WeightKind.EMA
        return self.num_trained * (AVERAGE_RANK if has_average_of_its_own else 1)

    @property
    def sequence_tokens(self) -> int:
        """Of one sample as the student reads it."""
        return self.lengths.prompt + self.lengths.completion

    def longest_sequence(self, role: str) -> int:
        """Tokens of prompt and completion as the role reads them."""
        return self.sequence_tokens if role != "teacher" else self.lengths.teacher_prompt + self.lengths.completion

    @property
    def microbatch_samples(self) -> int:
        """Of the largest microbatch."""
        return min(self._samples_that_fit, -(-self.cfg.batch_size // self.cfg.cluster.learner.num_workers))

    @property
    def num_microbatches(self) -> int:
        """Of one step on one rank."""
        return -(-self.cfg.batch_size // (self._samples_that_fit * self.cfg.cluster.learner.num_workers))

    def samples_per_worker(self, role: str) -> int:
        """Samples that a worker of the role has at hand at a time, at most."""
        open_samples = self.cfg.batch_size * (self.cfg.max_staleness + 1)
        return -(-open_samples // self.cfg.cluster.placements()[role].num_workers)

    @property
    def _samples_that_fit(self) -> int:
        """In one microbatch, as `learner.schedule.cut_rounds` fills them: one sample always does."""
        return max(1, self.cfg.learner.max_tokens_per_microbatch // self.sequence_tokens)


def read_workload(
    cfg: RunConfig, roles: Sequence[str], look: Callable[[PromptBuilder], object] = lambda builder: None
) -> Workload:
    """Reads shape and lengths: of the model's config.json and of the data, as far as they are there.

    The prompts are tokenised where the model folder holds a tokenizer. Otherwise the budgets of `data` stand for them.

    Args:
        cfg: the checked settings.
        roles: those the run would start.
        look: is handed what makes the prompts, where they are tokenised.

    Raises:
        ConfigError, DataError, ModelError: with the key, the value and the remedy.
    """
    if cfg.plan.model:
        return Workload(cfg=cfg, shape=planned_shape(cfg.plan.model), lengths=_budgets(cfg), roles=tuple(roles))
    folder = resolve_model(cfg.model.path)
    if not (Path(folder) / "tokenizer_config.json").is_file():
        return Workload(cfg=cfg, shape=read_shape(folder), lengths=_budgets(cfg), roles=tuple(roles))
    tokenizer = load_tokenizer(folder, cfg.model.chat_template)
    switches = cfg.model.template_switches
    builder = PromptBuilder(tokenizer, cfg.teacher, switches=switches, special_tokens=cfg.data.special_tokens)
    lengths = _measured(cfg, builder)
    look(builder)
    return Workload(cfg=cfg, shape=read_shape(folder), lengths=lengths, roles=tuple(roles))


def _budgets(cfg: RunConfig) -> Lengths:
    return Lengths(
        prompt=cfg.data.max_prompt_tokens,
        teacher_prompt=cfg.data.max_teacher_prompt_tokens,
        completion=cfg.rollout.max_new_tokens,
        origin="the budgets of data and rollout",
    )


def _measured(cfg: RunConfig, builder: PromptBuilder) -> Lengths:
    """Means over the data."""
    rows = read_examples(cfg.data, cfg.method, builder).rows
    completion: float = cfg.rollout.max_new_tokens
    rehearsal = read_rehearsal(cfg.data, builder, batch_size=cfg.batch_size, max_new_tokens=cfg.rollout.max_new_tokens)
    if not cfg.method.samples:
        completion = rows.demonstrations.lengths.mean()
    prompt, teacher_prompt = rows.prompts.lengths.mean(), rows.teacher_prompts.lengths.mean()
    if rehearsal:  # its share of a batch has other lengths
        share = rehearsal.per_batch / cfg.batch_size
        rehearsed = rehearsal.rows.prompts.lengths.mean()
        prompt += share * (rehearsed - prompt)
        teacher_prompt += share * (rehearsed - teacher_prompt)
        completion += share * (rehearsal.max_new_tokens - completion)
    return Lengths(
        prompt=round(prompt),
        teacher_prompt=round(teacher_prompt),
        completion=round(completion),
        origin=f"means over the {len(rows)} examples of {cfg.data.origin}; sampled completions as long as they may get",
    )
