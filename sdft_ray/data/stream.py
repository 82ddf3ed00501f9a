"""The endless stream of examples that a run draws from."""

import hashlib
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property
from itertools import islice
from typing import Any

from sdft_ray.data.tokenized import TokenizedRow, TokenizedRows
from sdft_ray.errors import CheckpointError, ConfigError
from sdft_ray.records import TokenizedExample


class ExampleStream:
    """An endless stream of examples, seeded, shuffled anew every epoch, and resumable at any place.

    What comes at a position depends on the seed and the example ids alone, never on the machine: order and
    request seeds are made of BLAKE2b hashes, which no library release can change. The last, partial batch of
    an epoch is dropped (docs/method.md), so a batch never spans two epochs.
    """

    def __init__(
        self, rows: Sequence[TokenizedRow], *, batch_size: int, seed: int, max_new_tokens: int, shuffle: bool = True
    ):
        """Starts at the first example of epoch 0.

        Raises:
            ConfigError: an epoch does not fill one batch.
        """
        if len(rows) < batch_size:
            problem = f"the data has only {len(rows)} examples, so an epoch has no full batch"
            raise ConfigError(
                "batch_size", batch_size, problem, f"set batch_size={max(1, len(rows))} or smaller, or add data"
            )
        self._rows = TokenizedRows.of(rows)
        self._batch_size = batch_size
        self._seed = seed
        self._max_new_tokens = max_new_tokens
        self._shuffle = shuffle
        self._position = 0
        self._order_epoch = -1
        self._order: list[int] = []

    def __iter__(self) -> "ExampleStream":
        return self

    def __next__(self) -> TokenizedExample:
        """The next example; a new epoch starts by itself."""
        epoch, index = divmod(self._position, self.examples_per_epoch)
        if epoch != self._order_epoch:
            self._order_epoch, self._order = epoch, self._order_of(epoch)
        row = self._rows[self._order[index]]
        self._position += 1
        return TokenizedExample(
            example_id=row.example_id,
            epoch=epoch,
            seed=stable_hash(self._seed, row.example_id, epoch),
            max_new_tokens=self._max_new_tokens,
            prompt_tokens=row.prompt_tokens,
            teacher_prompt_tokens=row.teacher_prompt_tokens,
            demonstration_tokens=row.demonstration_tokens,
            pool_hits=row.pool_hits,
        )

    @property
    def examples_per_epoch(self) -> int:
        """Examples drawn in one epoch: a multiple of the batch size."""
        return self.steps_per_epoch * self._batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one epoch."""
        return len(self._rows) // self._batch_size

    @property
    def position(self) -> int:
        """Number of examples drawn so far, over all epochs."""
        return self._position

    def first(self, num_examples: int) -> list[TokenizedExample]:
        """The first examples of the stream, wherever it stands now; those after the first epoch are no new ones."""
        fresh = copy(self)
        fresh._position = 0
        return list(islice(fresh, num_examples))

    def state_at(self, num_examples: int) -> dict[str, Any]:
        """The state from which the stream goes on after its first `num_examples` examples."""
        return {"num_examples": num_examples, **self._fingerprint()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state made by `state_at`.

        Raises:
            CheckpointError: the state is of other data, or of another seed, batch size or order.
        """
        if "examples" in state:
            raise CheckpointError(
                "the checkpoint's data state is of an earlier release, which told its examples by another fingerprint, "
                "so whether they are those of this run cannot be known; resume with that release, or begin anew with "
                "resume=never and model.path set to an exported model."
            )
        for key, mine in self._fingerprint().items():
            if state.get(key) != mine:
                raise CheckpointError(
                    f"the checkpoint's data state has {key}={state.get(key)}, this run has {mine}: the "
                    "examples would not go on where they stopped; give the run the data source, seed, "
                    "batch_size and data.shuffle it was started with, or begin a new one with resume=never."
                )
        position = state.get("num_examples")
        if not isinstance(position, int) or position < 0:
            raise CheckpointError(
                f"the checkpoint's data state has num_examples={position}; resume from another checkpoint."
            )
        self._position = position

    def _order_of(self, epoch: int) -> list[int]:
        ids = self._rows.example_ids
        indices = range(len(ids))
        if not self._shuffle:
            return list(indices)
        return sorted(indices, key=lambda index: stable_hash(self._seed, "order", epoch, ids[index]))

    @cached_property
    def _digest(self) -> str:
        """Of all rows; made once, since every checkpoint asks for it."""
        return self._rows.digest()

    def _fingerprint(self) -> dict[str, Any]:
        return {
            "rows": self._digest,
            "seed": self._seed,
            "batch_size": self._batch_size,
            "shuffle": self._shuffle,
        }


def stable_hash(*parts: object) -> int:
    """63 bits of BLAKE2b: the widest non-negative number that every sampler takes as a seed."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
