"""The wall to DeepSpeed: one rank's student, its gradients, its optimizer and its fp32 masters.

No other module touches DeepSpeed's engine, its optimizer, or what it hangs on parameters; another engine, such as
FSDP2, is another class with these methods. All ranks have to make the same calls in the same order: each may be a
collective.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_grad
from transformers import PreTrainedModel
from transformers.integrations import HfDeepSpeedConfig

from sdft_ray.config import LearnerConfig, ModelConfig
from sdft_ray.learner.compile_lock import clear_compile_locks
from sdft_ray.learner.fragment_files import Piece
from sdft_ray.learner.objective import LossOf, Student, check_partitioned_head
from sdft_ray.learner.optimizer import deepspeed_settings, make_optimizer
from sdft_ray.learner.persistent_grads import PersistentGradient, allocate_gradients
from sdft_ray.models.network import check_finite, check_head, is_finite, load_network
from sdft_ray.models.state import copy_buffers, saved_buffers, trained_parameters
from sdft_ray.weights.fragments import Fragment, Shapes

STUDENT = "student"  # the kind of the fp32 masters in a checkpoint; the moments go by the optimizer's names
MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, beside its count of steps


class StudentEngine:
    """The student on one rank, in training."""

    def __init__(self, model_path: str, model: ModelConfig, cfg: LearnerConfig, device: str):
        """Joins the process group and wraps the student.

        Under ZeRO 3 the weights are cut up while they are loaded, so no rank ever holds the whole model.

        Raises:
            ModelError: a weight is NaN or infinite, or the network's head is of an unknown kind.
        """
        clear_compile_locks()
        self._stage = cfg.zero_stage
        deepspeed.init_distributed(dist_backend="nccl" if device == "cuda" else "gloo")
        settings = deepspeed_settings(cfg, on_gpu=device == "cuda")
        # transformers asks a weak reference to this object whether to load in parts: it must outlive the loading.
        partitioned_loading = HfDeepSpeedConfig(settings) if cfg.zero_stage == 3 else None
        self.network: PreTrainedModel = load_network(model_path, cfg.precision, model, model.adapter)
        del partitioned_loading
        if cfg.zero_stage < 3:  # a partitioned network runs inside its engine only: see below
            check_head(self.network)
        if cfg.gradient_checkpointing:
            self.network.gradient_checkpointing_enable({"use_reentrant": False})
        self.student = Student(self.network, dropout=model.dropout, adapter_dropout=model.adapter.dropout > 0)
        self._parameters = trained_parameters(self.network)
        buffers = saved_buffers(self.network)
        self._engine, _, _, _ = deepspeed.initialize(
            model=self.student,
            optimizer=make_optimizer(self._parameters.values(), cfg),
            config=settings,
        )
        copy_buffers(self.network, buffers)  # DeepSpeed rounds all floating ones to bf16 where it trains in bf16
        self._rank, self.num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.broken_gradients: list[str] = []  # of the last step that was not taken, on this rank
        if cfg.zero_stage > 0:
            self._watch_gradients()
        if cfg.zero_stage == 0 and self.num_ranks == 1:
            # The sum over one rank would still go through a flat copy of all gradients.
            self._engine.enable_backward_allreduce = False
        if cfg.zero_stage == 3:
            # Weights that are cut up while they are loaded have no values that `load_network` could look at.
            check_finite(model_path, ((name, value.ds_tensor) for name, value in self.network.named_parameters()))
            self.eval()
            check_partitioned_head(self.forward, self.network, self._engine.device)
        self.train()

    def train(self) -> None:
        """Enters the mode of a training step; see `Student.train`."""
        self._engine.train()

    def eval(self) -> None:
        """Enters the mode in which nothing is random."""
        self._engine.eval()

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        predictor_index: torch.Tensor,
        loss_of: LossOf | None,
    ) -> tuple[torch.Tensor, ...]:
        """See `Student.forward`, with whatever DeepSpeed does around it."""
        answer: tuple[torch.Tensor, ...] = self._engine(
            input_ids=input_ids, position_ids=position_ids, predictor_index=predictor_index, loss_of=loss_of
        )
        return answer

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        """Adds the gradient of this rank's part of the loss; `is_last` says that the step has no other microbatch."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        # DeepSpeed averages gradients over ranks; the loss is already a share of the global batch's.
        self._engine.backward(loss * self.num_ranks)

    def step(self, learning_rate: float) -> float:
        """Takes the optimizer step with the accumulated gradient, summed over ranks.

        Where the gradient is NaN or infinite no step is taken: masters and moments stay as they are, and
        `broken_gradients` says which parameters have one.

        Returns:
            The global gradient norm before clipping.
        """
        self._set_learning_rate(learning_rate)
        if self._engine.zero_optimization():
            self._engine.step()  # looks at the norm itself, and takes no step if that is not finite
            return float(self._engine.get_global_grad_norm())
        # Without ZeRO DeepSpeed neither reports a norm nor looks at it.
        gradients = [param.grad for param in self._parameters.values() if param.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if math.isfinite(norm):
            self._engine.step()
        else:
            self._keep_broken_gradients()
        return norm

    def broken_weight(self) -> str:
        """The first parameter of whose fp32 master this rank owns a value that is NaN or infinite; "" for none."""
        return next((name for name, _, values in self.masters() if not is_finite(values)), "")

    def _watch_gradients(self) -> None:
        """Has `_keep_broken_gradients` called where ZeRO gives up a step: behind its look, before it forgets."""
        optimizer = self._engine.optimizer
        # The optimizer of stage 1 in bf16 has no loss scale, which the others bring up to date behind a look.
        name = "_update_scale" if hasattr(optimizer, "_update_scale") else "clear_hp_grads"
        told = getattr(optimizer, name)

        def watched(*arguments: Any) -> None:
            if optimizer.overflow and not self.broken_gradients:  # stage 1 in bf16 forgets twice
                self._keep_broken_gradients()
            told(*arguments)

        setattr(optimizer, name, watched)

    def _keep_broken_gradients(self) -> None:
        """Looks at this rank's part of every gradient; parameters in the order of the backward pass."""
        named = reversed(list(self._parameters.items()))
        self.broken_gradients = [name for name, param in named if not all(map(is_finite, own_gradients(param)))]

    def moments(self) -> Iterator[torch.Tensor]:
        """What the optimizer of this rank remembers, its counts of steps among it; in place."""
        for state in self._engine.basic_optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))

    def reset_moments(self) -> None:
        """Makes the optimizer one that has taken no step; in place, since ZeRO holds on to these tensors."""
        for values in self.moments():
            values.zero_()

    def allocate_gradients(self) -> list[PersistentGradient]:
        """Gives gradients and moments memory for the whole run, on a rank that holds all of them."""

        def make_moments() -> None:
            self._set_learning_rate(0.0)  # every step is given its own
            self._engine.optimizer.step()
            self.reset_moments()
            self._engine.zero_grad()

        return allocate_gradients(self.student, self._parameters.values(), make_moments)

    def offload(self) -> Callable[[], None]:
        """Moves weights, masters and moments to host memory, where none can be read; returns what takes them back."""
        self._engine.offload_states(pin_memory=self._engine.device.type != "cpu")
        return self._engine.reload_states

    def shapes(self, *, untrained: bool = False) -> Shapes:
        """Names and full shapes of what is trained, or with `untrained` of all parameters; tied ones once."""
        parameters = self.network.named_parameters() if untrained else self._parameters.items()
        return tuple((name, tuple(getattr(param, "ds_shape", param.shape))) for name, param in parameters)

    def masters(self) -> Iterator[Fragment]:
        """The fragments of the fp32 master weights that this rank owns; views, in the same order every time."""
        for name, param in self._parameters.items():
            fragment = master_fragment(name, param, self._rank, self.num_ranks)
            if fragment is not None and fragment.values.numel() > 0:
                yield fragment

    def move_masters(self, allocate: Callable[[list[Fragment]], list[Fragment]]) -> None:
        """Keeps the weights of a rank that holds all of them, whole, from now on where `allocate` copies them to."""
        for name, _, values in allocate(list(self.masters())):
            self._parameters[name].data = values.view_as(self._parameters[name])

    def pieces(self) -> Iterator[Piece]:
        """What a checkpoint needs of this rank's masters and moments; views, each value on exactly one rank."""
        for name, start, values in self.masters():
            yield Piece(STUDENT, name, start, values)
            state, offset = self._moments_of(self._parameters[name], start)
            for moment in MOMENTS:
                if moment in state:
                    flat = state[moment].view(-1)
                    yield Piece(moment, name, start, flat[offset : offset + values.numel()])

    def num_updates(self) -> dict[str, float]:
        """The optimizer's count of steps by the name of the parameter."""
        counts = {
            name: self._moments_of(self._parameters[name], start)[0].get("step") for name, start, _ in self.masters()
        }
        return {name: float(count) for name, count in counts.items() if count is not None}

    @torch.no_grad()
    def restore(self, read: Callable[[str, str, int, int], torch.Tensor], num_updates: Mapping[str, float]) -> None:
        """Takes over masters and moments, whatever layout they were saved from.

        Args:
            read: kind, parameter, start and number of elements to their values [elements] in host memory.
            num_updates: the optimizer's count of steps; a parameter that is not in it has no moments.
        """
        for name, start, values in self._trained():
            values.copy_(read(STUDENT, name, start, values.numel()))
            if name in num_updates:
                state, offset = self._moments_of(self._parameters[name], start, make=True)
                state["step"].fill_(num_updates[name])
                for moment in MOMENTS:
                    flat = state[moment].view(-1)
                    flat[offset : offset + values.numel()].copy_(read(moment, name, start, values.numel()))
        optimizer = self._engine.optimizer
        if self._stage == 3:  # as behind a step: what is computed with is made of the masters
            optimizer._partition_all_parameters()
            for group in range(len(optimizer.fp32_partitioned_groups_flat)):
                optimizer._reassign_or_swap_out_partitioned_parameters(group)
        elif self._stage > 0:
            optimizer.update_lp_params()

    def _trained(self) -> Iterator[Fragment]:
        """The fp32 weights that this rank's optimizer updates: without ZeRO every rank's all of them."""
        if self._stage > 0:
            yield from self.masters()
        else:
            yield from (Fragment(name, 0, param.data.view(-1)) for name, param in self._parameters.items())

    def _moments_of(self, param: torch.nn.Parameter, start: int, *, make: bool = False) -> tuple[dict[str, Any], int]:
        """The optimizer's state of a fragment of `param`, and where the fragment begins in its flat tensors.

        Args:
            param: the parameter.
            start: of the fragment.
            make: whether a state that no step has made yet is made.
        """
        key, offset = optimizer_place(self._engine.optimizer, param, start)
        state = self._engine.basic_optimizer.state[key]
        if make and not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=key.device)
            state |= {moment: torch.zeros_like(key, requires_grad=False) for moment in MOMENTS}
        return state, offset

    def _set_learning_rate(self, learning_rate: float) -> None:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate


def master_fragment(name: str, param: torch.nn.Parameter, rank: int, num_ranks: int) -> Fragment | None:
    """What a rank owns of one parameter's fp32 master, outside of autograd's graph; None for nothing."""
    if hasattr(param, "ds_id"):  # ZeRO 3 cuts every parameter into equal parts, the last one padded
        local = safe_get_local_fp32_param(param).detach().view(-1)
        start = rank * local.numel()
        return Fragment(name, start, local[: max(0, param.ds_numel - start)])  # type: ignore[attr-defined]
    if hasattr(param, "_hp_mapping"):  # ZeRO 1 and 2 cut the flat sequence of all parameters
        mapping = param._hp_mapping
        if mapping is None:
            return None
        return Fragment(name, mapping.lp_fragment_address.start, mapping.get_hp_fragment().detach().view(-1))
    size = -(-param.numel() // num_ranks)  # without ZeRO every rank holds all of it, and owns an equal part
    return Fragment(name, rank * size, param.data.view(-1)[rank * size : (rank + 1) * size])


def optimizer_place(optimizer: Any, param: torch.nn.Parameter, start: int) -> tuple[torch.Tensor, int]:
    """The tensor by which an optimizer files the moments of one parameter, and where a fragment's begin in them."""
    if hasattr(param, "ds_id"):
        group, offset, _ = optimizer.grad_position[optimizer.get_param_id(param)]
        return optimizer.fp32_partitioned_groups_flat[group], offset
    if hasattr(param, "_hp_mapping"):
        mapping = param._hp_mapping
        # ZeRO 1 in bf16 is another class of DeepSpeed's than ZeRO 2.
        name = "single_partition_of_fp32_groups"
        flats = getattr(optimizer, name if hasattr(optimizer, name) else "fp32_groups_flat_partition")
        return flats[mapping.param_group_index], mapping.get_hp_fragment_address().start
    return param, start


def own_gradients(param: torch.nn.Parameter) -> Iterator[torch.Tensor]:
    """What this rank holds of a parameter's gradient, by what ZeRO hangs on the parameter."""
    if param.grad is not None:
        yield param.grad
    if hasattr(param, "_hp_grad"):  # the fp32 sum of stage 1 in bf16
        yield param._hp_grad
    elif hasattr(param, "ds_id"):
        yield safe_get_local_grad(param)
    elif getattr(param, "_hp_mapping", None) is not None:
        yield param._hp_mapping.get_lp_grad_fragment(param._index_in_param_group)  # type: ignore[attr-defined]
