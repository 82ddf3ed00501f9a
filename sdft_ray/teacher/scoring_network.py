"""A teacher's network in plain transformers, with its head, its packing and the payloads made of its hidden states.

Legend: T completion tokens of a pack, H hidden size, V vocabulary entries that count.
"""

from collections.abc import Sequence

import torch

from sdft_ray.config import ModelConfig, TeacherConfig
from sdft_ray.examples import GuardRow
from sdft_ray.models.adapter import adapter_off
from sdft_ray.models.network import check_head, completion_hidden, load_network, output_head
from sdft_ray.models.packing import PackedSequences, Packing, pack_sequences
from sdft_ray.models.packing_check import check_packing
from sdft_ray.models.state import published_state
from sdft_ray.records import TeacherPayload
from sdft_ray.teacher.payload import PayloadPacker
from sdft_ray.tensors import moved


class ScoringNetwork:
    """Reads completions under their prompts, many in one forward pass, and keeps no gradient."""

    def __init__(
        self,
        model_path: str,
        model: ModelConfig,
        teacher: TeacherConfig,
        *,
        num_tokens: int,
        temperature: float,
        device: torch.device,
        guard_rows: Sequence[GuardRow],
        max_len: int,
    ):
        """Loads the network and finds the packing that it computes rightly; arguments as `TransformersTeacher`'s.

        Raises:
            ModelError: the network's head is of an unknown kind, or it computes no packing rightly.
        """
        self._device = device
        self._network = (
            load_network(model_path, model.dtype, model, model.adapter).to(device).eval().requires_grad_(False)
        )
        check_head(self._network)
        self._packer = PayloadPacker(teacher, output_head(self._network), num_tokens, temperature)
        self.parameters = published_state(self._network)
        verdict = check_packing(
            self._network,
            guard_rows,
            self._hidden,
            attention=model.attention,
            enter_mode=self._network.eval,
            longest=max_len,
        )
        self.packing = verdict.packing
        self.note = f"teacher: {verdict.sentence(type(self._network).__name__)}"

    @property
    def num_bytes(self) -> int:
        """Of its weights; tied ones count once."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.parameters.values())

    def put_away(self) -> None:
        """Moves the weights to host memory; on a CPU they are there already."""
        for param in self._network.parameters():
            param.data = moved(param.data, torch.device("cpu"))
        if self._device.type != "cpu":
            torch.cuda.empty_cache()

    def take_back(self) -> None:
        """Moves the weights to the device again; at once where they are there."""
        for param in self._network.parameters():
            param.data = moved(param.data, self._device)

    def initial_payloads(self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[TeacherPayload]:
        """As `payloads`, with the weights of the model folder, where an adapter is all that has changed."""
        with adapter_off(self._network):
            return self.payloads(sequences)

    @torch.inference_mode()
    def payloads(self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[TeacherPayload]:
        """The payload of the completion of every (prompt, completion), made in one forward pass."""
        packed = pack_sequences(sequences, share_prefix=self.packing is Packing.SHARED_PREFIX)
        lengths = [len(completion) for _, completion in sequences]
        return [
            self._packer.pack(rows, completion)
            for rows, (_, completion) in zip(self._hidden(packed).split(lengths), sequences, strict=True)
        ]

    def _hidden(self, packed: PackedSequences) -> torch.Tensor:
        """Hidden states [T, H] at the pack's predictor_index."""
        arrays = (packed.input_ids, packed.position_ids, packed.predictor_index)
        return completion_hidden(self._network, *(torch.from_numpy(array).to(self._device) for array in arrays))
