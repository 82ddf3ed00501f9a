"""Published weights under the names that vLLM's loaders read: those of a checkpoint, not those of a network in memory.

transformers 5 holds the experts of a layer in one parameter and renames what older networks called differently; when it
saves, it undoes both, and so do we, with its own table.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, revert_weight_conversion

from sdft_ray.models.folder import read_config, without_weights


class CheckpointNames:
    """Converts one set of weights, in any number of parts."""

    def __init__(self, folder: str):
        """`folder` has the configuration of the network that publishes."""
        self._network = _without_weights(folder)
        conversions = get_model_conversion_mapping(self._network, add_legacy=False)
        self._joins = any(isinstance(each, WeightConverter) and len(each.target_patterns) > 1 for each in conversions)
        self._held: dict[str, torch.Tensor] = {}

    def convert(self, published: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """The part under a checkpoint's names; nothing where parameters of several parts may be one in a checkpoint."""
        if self._joins:
            self._held |= published
        else:
            yield from revert_weight_conversion(self._network, dict(published)).items()

    def rest(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What `convert` has held back, once all parts are there."""
        if self._held:
            yield from revert_weight_conversion(self._network, self._held).items()
        self._held = {}


@cache
def _without_weights(folder: str) -> Any:
    return without_weights(read_config(folder), folder)
