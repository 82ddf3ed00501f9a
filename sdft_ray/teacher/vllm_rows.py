"""What the engine's own processes return of a request: the hidden states that predict its completion, no others."""

from collections.abc import Set

import torch
from vllm.model_executor.layers.pooler.tokwise import TokenPoolerHead
from vllm.pooling_params import PoolingParams
from vllm.tasks import PoolingTask

from sdft_ray.inference.weight_loading import WeightLoading

TASK: PoolingTask = "token_embed"


def request_rows(num_rows: int) -> PoolingParams:
    """Asks for the hidden states of a request's last `num_rows` tokens."""
    return PoolingParams(task=TASK, extra_kwargs={"num_rows": num_rows})


class LastRows(TokenPoolerHead):
    """The end of vLLM's pooling, as `request_rows` asks for it: no projection, no normalisation."""

    def get_supported_tasks(self) -> Set[PoolingTask]:
        """The one task."""
        return {TASK}

    def forward_chunk(self, pooled_data: torch.Tensor | None, pooling_param: PoolingParams) -> torch.Tensor | None:
        """The last rows of `pooled_data` [N, H]; None while only a part of the request has been read.

        Counted from the end: of a request that was preempted and read anew, vLLM keeps the first reading, too.
        """
        return None if pooled_data is None else pooled_data[-pooling_param.extra_kwargs["num_rows"] :]


class CompletionRows(WeightLoading):
    """Methods that vLLM's worker gains; each runs in every tensor-parallel rank."""

    def keep_last_rows(self) -> None:
        """Makes the model return what `request_rows` asks for."""
        self._model().pooler.poolers_by_task[TASK].head = LastRows()
