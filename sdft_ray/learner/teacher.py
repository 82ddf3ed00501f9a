"""The teacher on a learner rank: its output heads, and its payloads opened.

A score and the head that turns it into a distribution must be of one weight version. The learner makes the head of
every version itself, from its own fp32 fragments of the teacher, so no head ever travels.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from sdft_ray.config import Payload, Target, TeacherBackend, TeacherWeights
from sdft_ray.distill.distributions import Head, HiddenRows, JoinedRows, LogitsRows, TailName, TeacherRows, TopKRows
from sdft_ray.errors import WeightVersionError
from sdft_ray.learner.settings import LearnerSettings
from sdft_ray.models.network import TORCH_DTYPE, check_folder_head, load_head, output_head
from sdft_ray.records import INITIAL_VERSION, HiddenPayload, LogitsPayload, Microbatch, ParameterEntry
from sdft_ray.tensors import to_tensor
from sdft_ray.weights.fragments import Fragment, Shapes, assemble

FETCH_TIMEOUT_S = 600.0  # in the rank; the driver waits for the whole round, see `workers/deadlines.py`


class TeacherHeads:
    """The heads of the last weight versions, in the dtype of the teacher's workers."""

    def __init__(self, num_kept: int):
        """`num_kept` versions are kept: as many as samples of one batch can have been scored with."""
        self._num_kept = num_kept
        self._heads: dict[int, Head] = {}
        self._initial: Head | None = None

    def hold_initial(self, head: Head) -> None:
        """Keeps the head of the initial weights for as long as the run lasts: rehearsal is scored with them."""
        self._initial = head

    def hold(self, version: int, head: Head) -> None:
        """Keeps the head of `version` and lets go of those too old to be asked for."""
        self._heads[version] = head
        for old in sorted(self._heads)[: -self._num_kept]:
            del self._heads[old]

    def of(self, version: int) -> Head:
        """The head of that version.

        Raises:
            WeightVersionError: it is not held.
        """
        if version == INITIAL_VERSION and self._initial is not None:
            return self._initial
        if version not in self._heads:
            held = ", ".join(map(str, sorted(self._heads))) or "none"
            raise WeightVersionError(
                f"a teacher scored with weights {version}, but the learner holds the teacher's heads of versions {held}"
            )
        return self._heads[version]


class HeadMaker:
    """Puts the head together from the fragments of all ranks."""

    def __init__(
        self,
        head: Head,
        parameters: dict[str, torch.Tensor],
        shapes: Shapes,
        dtype: torch.dtype,
        device: torch.device,
        *,
        in_place: bool,
    ):
        """Finds the head's parameters by their identity.

        Args:
            head: the network's own.
            parameters: all of the network by name, tied ones once.
            shapes: the full ones of the parameters, which ZeRO 3 has cut up.
            dtype: that of the teacher's workers, so that both multiply with the same numbers.
            device: where heads are kept.
            in_place: whether the head is a view of this rank's fp32 fragments: they are whole parameters, and do
                not change while a head is in use.
        """
        self._transform = head.scale, head.softcap
        self._entries = [
            ParameterEntry(name=name, shape=dict(shapes)[name], offset=0)
            for wanted in head[:2]
            for name, parameter in parameters.items()
            if parameter is wanted
        ]
        self._dtype = dtype
        self._device = device
        self._in_place = in_place

    def make(self, fragments: Callable[[], Iterator[Fragment]]) -> Head:
        """The head of one set of weights; every rank has to call it and gets it."""
        weight, *bias = self._views(fragments) if self._in_place else self._copies(fragments)
        return Head(weight, bias[0] if bias else None, *self._transform)

    def _views(self, fragments: Callable[[], Iterator[Fragment]]) -> list[torch.Tensor]:
        values = {name: values for name, _, values in fragments()}
        return [values[entry.name].view(entry.shape) for entry in self._entries]

    def _copies(self, fragments: Callable[[], Iterator[Fragment]]) -> list[torch.Tensor]:
        return [
            assemble((entry,), fragments(), self._device, on_all_ranks=True).view(entry.shape).to(self._dtype)
            for entry in self._entries
        ]


def teacher_head_maker(
    settings: LearnerSettings,
    heads: TeacherHeads,
    network: PreTrainedModel,
    shapes: Shapes,
    fragments: Callable[[], Iterator[Fragment]],
    device: torch.device,
) -> Callable[[int], None]:
    """What has to be called with every new weight version so that hidden states of the teacher can be used.

    Args:
        settings: say whether they are, and whose weights the teacher has.
        heads: that are held from then on.
        network: the student.
        shapes: of all its parameters.
        fragments: of the teacher's weights on this rank.
        device: where heads are kept.

    Raises:
        ModelError: a frozen teacher that is a model of its own has a head that `Head` does not describe.
    """
    teacher = settings.teacher
    if settings.target is not Target.TEACHER or teacher.payload is not Payload.HIDDEN:
        return lambda version: None
    if teacher.weights is TeacherWeights.FROZEN:
        if teacher.backend is TeacherBackend.VLLM and settings.teacher_path != settings.model_path:
            check_folder_head(settings.teacher_path, settings.model)  # vLLM's hidden states are before the head
        heads.hold(INITIAL_VERSION, load_head(settings.teacher_path, settings.model.dtype, device))
        return lambda version: None
    if settings.model.adapter.is_on:  # which leaves the head as it is
        unchanged = load_head(settings.model_path, settings.model.dtype, device)
        heads.hold_initial(unchanged)
        return lambda version: heads.hold(version, unchanged)
    if settings.weights.teachers_keep_initial:
        heads.hold_initial(load_head(settings.model_path, settings.model.dtype, device))
    dtype = TORCH_DTYPE[settings.model.dtype]
    maker = HeadMaker(
        output_head(network),
        dict(network.named_parameters()),
        shapes,
        dtype,
        device,
        in_place=settings.weights.heads_in_place,
    )
    return lambda version: heads.hold(version, maker.make(fragments))


def open_payloads(microbatch: Microbatch, heads: TeacherHeads, tail: TailName, device: torch.device) -> TeacherRows:
    """What the teacher says about the microbatch's tokens, on `device`; errors are those of `teacher_rows`."""
    import ray  # here: all else of a learner's numbers needs none, and is checked without it

    payloads = ray.get(list(microbatch.payloads), timeout=FETCH_TIMEOUT_S)
    return teacher_rows(payloads, microbatch.teacher_versions, heads, tail, device)


def teacher_rows(
    payloads: Sequence[Any], versions: Sequence[int], heads: TeacherHeads, tail: TailName, device: torch.device
) -> TeacherRows:
    """What payloads of one kind say about the tokens of their completions, one after the other, on `device`.

    The rows are copies: the object store may free a payload as soon as its last handle is dropped.

    Args:
        payloads: [S] of the kinds in `records.TeacherPayload`.
        versions: [S] the weight version that each was made with.
        heads: those that hidden states are multiplied with.
        tail: what becomes of the tokens that are no candidates.
        device: the learner's.

    Raises:
        WeightVersionError: a payload of hidden states was made with weights whose head is not held.
    """

    def joined(arrays: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.cat([to_tensor(array) for array in arrays]).to(device)

    first = payloads[0]
    if isinstance(first, LogitsPayload):
        return LogitsRows(joined([payload.logits for payload in payloads]))
    if isinstance(first, HiddenPayload):
        parts = [
            HiddenRows(joined([payload.hidden for _, payload in group]), heads.of(version))
            for version, group in groupby(zip(versions, payloads, strict=True), key=lambda pair: pair[0])
        ]
        return parts[0] if len(parts) == 1 else JoinedRows(parts)
    return TopKRows(
        ids=joined([payload.ids for payload in payloads]).long(),
        logprobs=joined([payload.logprobs for payload in payloads]),
        tail_logprobs=joined([payload.tail_logprobs for payload in payloads]),
        token_logprobs=joined([payload.token_logprobs for payload in payloads]),
        tail=tail,
    )
