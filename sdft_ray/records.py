"""What crosses a process, one frozen record a stage: TokenizedExample -> Rollout -> Sample -> StepReport.

Legend of shapes: T completion tokens, P prompt tokens, V vocabulary. Token ids and logprobs are tuples: small,
hashable and free of any vendor. Only payloads (megabytes a sample) are arrays, and those travel by reference.
Lengths are compared once, at birth.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdft_ray.examples import TokenizedExample

INITIAL_VERSION = 0  # of the weights that a run begins with, whatever checkpoint it goes on from
NUM_SHOWN = 5  # tokens of a sample whose two distributions are shown, those with the largest divergence


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """A completion with the logprobs it was sampled with and the weight version that made it."""

    prompt_tokens: tuple[int, ...]  # [P]
    completion_tokens: tuple[int, ...]  # [T]
    logprobs: tuple[float, ...]  # [T] of the sampler; 0.0 throughout where nothing was sampled (demonstrations)
    weight_version: int  # the OLDEST version that contributed a token
    truncated: bool  # cut at the length limit: no end-of-sequence token
    num_sampled: int  # tokens drawn for this very rollout: T, or 0 where they were given or had been recorded

    def __post_init__(self) -> None:
        if len(self.logprobs) != len(self.completion_tokens):
            raise ValueError(f"{len(self.logprobs)} logprobs for {len(self.completion_tokens)} completion tokens")
        if not 0 <= self.num_sampled <= len(self.completion_tokens):
            raise ValueError(f"{self.num_sampled} sampled tokens of {len(self.completion_tokens)} completion tokens")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRequest:
    """A completion that a rollout worker is asked for."""

    prompt_tokens: tuple[int, ...]  # [P]
    max_new_tokens: int
    temperature: float  # 0 is greedy
    top_p: float
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitsPayload:
    """The teacher's full-vocabulary logits at every completion position, before any temperature."""

    logits: np.ndarray  # [T, V] float32, or bfloat16 bit patterns as uint16


@dataclass(frozen=True, kw_only=True, slots=True)
class HiddenPayload:
    """The teacher's hidden state after the final norm at every completion position: the logits without the head."""

    hidden: np.ndarray  # [T, H] float32, or bfloat16 bit patterns as uint16


@dataclass(frozen=True, kw_only=True, slots=True)
class TopKPayload:
    """The teacher's K most likely tokens at every completion position, at the sampling temperature."""

    ids: np.ndarray  # [T, K] int32
    logprobs: np.ndarray  # [T, K] float32
    tail_logprobs: np.ndarray  # [T] float32: all other tokens together
    token_logprobs: np.ndarray  # [T] float32: the token that was written


TeacherPayload = LogitsPayload | HiddenPayload | TopKPayload


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherScores:
    """What the teacher says about one completion, without its bulk.

    `payload` is a handle (an object reference in a cluster) which only the learner rank that trains on the sample
    opens; the driver passes it on unopened. Token targets have no teacher: their payload is None by contract.
    """

    payload: Any
    num_tokens: int
    teacher_version: int

    @property
    def num_scored(self) -> int:
        """Completion tokens that a teacher has read: `num_tokens`, or 0 for a token target."""
        return 0 if self.payload is None else self.num_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A rollout with its teacher scores: what the learner trains on."""

    example_id: str
    epoch: int
    rollout: Rollout
    scores: TeacherScores
    demonstration_tokens: tuple[int, ...] = ()  # to tell what was copied from it; () where nobody asks
    pool_hits: tuple[tuple[str, float], ...] = ()  # as in `TokenizedExample`
    is_rehearsal: bool = False
    teacher_prompt_tokens: tuple[int, ...] = ()  # [P'] to score it again where its payload is lost

    def __post_init__(self) -> None:
        if self.scores.num_tokens != len(self.rollout.completion_tokens):
            raise ValueError(
                f"{self.example_id}: the teacher scored {self.scores.num_tokens} tokens "
                f"of a completion of {len(self.rollout.completion_tokens)}"
            )


def make_sample(example: TokenizedExample, rollout: Rollout, scores: TeacherScores) -> Sample:
    """The sample of one completion."""
    return Sample(
        example_id=example.example_id,
        epoch=example.epoch,
        rollout=rollout,
        scores=scores,
        demonstration_tokens=example.demonstration_tokens,
        pool_hits=example.pool_hits,
        is_rehearsal=example.is_rehearsal,
        teacher_prompt_tokens=example.teacher_prompt_tokens,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Microbatch:
    """The samples of one forward pass on one learner rank, packed without padding.

    S sequences, N tokens of prompts and completions together, T completion tokens together.
    """

    example_ids: tuple[str, ...]  # [S]
    input_ids: np.ndarray  # [N] int64
    position_ids: np.ndarray  # [N] int64: a sequence starts where they do not go on by one, see models/attention.py
    predictor_index: np.ndarray  # [T] int64: the position in input_ids whose logits predict completion token t
    completion_ids: np.ndarray  # [T] int64
    sequence_ids: np.ndarray  # [T] int64, 0..S-1, ascending
    token_weights: np.ndarray  # [T] float32: mask and normalisation over the global batch
    sampler_logprobs: np.ndarray  # [T] float32
    payloads: tuple[Any, ...]  # [S] handles, see TeacherScores
    teacher_versions: tuple[int, ...]  # [S] the weight version that each payload was made with
    reported: tuple[int, ...] = ()  # sequences of which a person will see the tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class MatmulSeconds:
    """What the matrix products of a learner rank's weights take, forward and backward, at a plain product's rate."""

    per_token: float  # that the network reads
    per_head_row: float  # that goes through the output head


@dataclass(frozen=True, kw_only=True, slots=True)
class RankReport:
    """What one learner rank saw in one step: sums over its counted tokens, so that ranks can be added up."""

    input_tokens: int  # read by the network
    head_rows: int  # of these, completion positions, which go through the output head
    sequence_tokens: int  # of all sequences, each counted for itself; fillers included
    counted_tokens: int
    loss: float  # this rank's part of the sum that is the loss
    divergence: float  # nats
    student_entropy: float  # nats
    teacher_entropy: float  # nats
    correction: float
    mismatch_max: float  # largest |trainer logprob - sampler logprob| [nats]
    grad_norm: float  # global, before clipping
    durations_s: dict[str, float]  # by metric key


def largest_positions(divergence: np.ndarray) -> list[int]:
    """The positions of the `NUM_SHOWN` largest divergences of a completion, counted or not, the largest first."""
    positions: list[int] = np.argsort(-divergence, kind="stable")[:NUM_SHOWN].tolist()
    return positions


@dataclass(frozen=True, kw_only=True, slots=True)
class TopTokens:
    """The most likely token of both sides at one position of a completion, each with its logprob [nats]."""

    position: int
    student: tuple[int, float]
    teacher: tuple[int, float] | None  # None where nothing was scored


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenViews:
    """What student and teacher make of every token of one completion, counted or not: nats, float32, a few bytes each.

    The teacher's fields are empty, [0], where the target is the token itself and nothing was scored.
    """

    divergence: np.ndarray  # [T] between the two distributions; -log p(token) where nothing was scored
    student_logprobs: np.ndarray  # [T] of the token that was written
    teacher_logprobs: np.ndarray  # [T] or [0]
    student_entropy: np.ndarray  # [T]
    teacher_entropy: np.ndarray  # [T] or [0]
    tops: tuple[TopTokens, ...] = ()  # where a reported sample's divergence is largest; () for the others
    nonfinite: str = ""  # what of the completion was NaN or infinite, one of learner/nonfinite.py; "" for nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleReport:
    """One trained sample as a person may want to see it."""

    example_id: str
    epoch: int
    weight_version: int
    prompt_tokens: tuple[int, ...]  # [P]
    completion_tokens: tuple[int, ...]  # [T]
    num_counted: int  # tokens, at the completion's end, that carry loss
    views: TokenViews  # [T]
    copied_share: float  # see data/copying.py
    truncated: bool
    pool_hits: tuple[tuple[str, float], ...] = ()  # as in `TokenizedExample`
    is_rehearsal: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What one optimizer step has to tell."""

    metrics: dict[str, float]  # keys as declared in tracking/metrics.py
    samples: tuple[SampleReport, ...]  # a few of the batch


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerStatus:
    """A worker's answer to "who are you, and what do you hold?"."""

    role: str
    rank: int
    node: str
    process_id: int
    weight_version: int
    peak_memory_gib: float  # resident set of the worker and its child processes
    peak_gpu_memory_gib: float  # that torch has reserved on the worker's fullest GPU; 0.0 without one


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """What a process did from one time to another, of a traced step."""

    name: str  # such as "sample"
    start_ns: int  # by the wall clock of its node, since 1970
    end_ns: int
    facts: dict[str, Any]  # counts and versions


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterEntry:
    """Where one parameter lies in a bucket."""

    name: str
    shape: tuple[int, ...]
    offset: int  # in elements

    @property
    def end(self) -> int:
        """The offset behind its last element."""
        return self.offset + math.prod(self.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """Many parameters, or the floating buffers that are saved with a network, packed into one flat array."""

    dtype: str  # "float32" or "bfloat16" (then the array holds its bit patterns as uint16)
    entries: tuple[ParameterEntry, ...]
    array: Any  # [elements], or the handle of such an array
    trains: bool = True  # False for buffers, which an average takes over as they are


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """One full set of weights of one version, as handles to buckets; tied parameters travel once, buffers last."""

    version: int
    buckets: tuple[Bucket, ...]
