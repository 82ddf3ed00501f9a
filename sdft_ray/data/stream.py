"""The endless stream of examples that a run draws from."""

import hashlib
from collections.abc import Mapping, Sequence
from copy import copy
from itertools import islice
from typing import Any, NamedTuple

from sdft_ray.data.dataset import TokenizedRow
from sdft_ray.data.rehearsal import Rehearsal
from sdft_ray.errors import CheckpointError, ConfigError
from sdft_ray.records import TokenizedExample


class Passes:
    """Endless passes over some rows, each in an order of its own that depends on nothing but the rows' ids."""

    def __init__(self, rows: Sequence[TokenizedRow], length: int, key: Sequence[object], *, shuffle: bool):
        """Each pass has the first `length` rows of its order; `key` tells this order from those of other rows."""
        self._rows, self._length, self._key, self._shuffle = tuple(rows), length, tuple(key), shuffle
        self._ordered = -1, self._rows

    def at(self, index: int) -> tuple[TokenizedRow, int]:
        """The row at a place of all passes together, and the number of its pass, from 0."""
        number, place = divmod(index, self._length)
        if self._shuffle and number != self._ordered[0]:
            order = sorted(self._rows, key=lambda row: stable_hash(*self._key, number, row.example_id))
            self._ordered = number, tuple(order)
        return self._ordered[1][place], number


class _Draws(NamedTuple):
    """What a batch takes of one kind of rows."""

    passes: Passes
    max_new_tokens: int
    per_batch: int


def _slots(draws: Sequence[_Draws]) -> list[tuple[_Draws, int]]:
    """Whose row each place of a batch has, and which of these it is.

    Rehearsal rows begin at the second place and are spread evenly: among the first samples, which are those shown to
    people, is one of each kind.
    """
    num_rows = sum(each.per_batch for each in draws)
    if len(draws) == 1:
        return [(draws[0], index) for index in range(num_rows)]
    taught, rehearsed = draws
    places = {1 + index * (num_rows - 1) // rehearsed.per_batch for index in range(rehearsed.per_batch)}
    counts = {True: 0, False: 0}
    slots = []
    for place in range(num_rows):
        is_rehearsal = place in places
        slots.append((rehearsed if is_rehearsal else taught, counts[is_rehearsal]))
        counts[is_rehearsal] += 1
    return slots


class ExampleStream:
    """An endless stream of examples, seeded, shuffled anew every epoch, and resumable at any place.

    What comes at a position depends on the seed and the example ids alone, never on the machine: order and
    request seeds are made of BLAKE2b hashes, which no library release can change. The last, partial batch of
    an epoch is dropped (docs/method.md), so a batch never spans two epochs.

    Rehearsal rows have the same places in every batch. They are passed through over and over, each pass in an order of
    its own; which pass that is, is their epoch.
    """

    def __init__(
        self,
        rows: Sequence[TokenizedRow],
        *,
        batch_size: int,
        seed: int,
        max_new_tokens: int,
        shuffle: bool = True,
        rehearsal: Rehearsal | None = None,
    ):
        """Starts at the first example of epoch 0.

        Raises:
            ConfigError: an epoch does not fill one batch.
        """
        num_rehearsed = rehearsal.per_batch if rehearsal else 0
        num_taught = batch_size - num_rehearsed
        if len(rows) < num_taught:
            problem = f"the data has only {len(rows)} examples, so an epoch has no full batch"
            remedy = f"set batch_size={max(1, len(rows)) + num_rehearsed} or smaller, or add data"
            raise ConfigError("batch_size", batch_size, problem, remedy)
        self._rows = tuple(rows)
        self._rehearsal = rehearsal
        self._batch_size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        self.steps_per_epoch = len(rows) // num_taught
        taught = Passes(rows, self.steps_per_epoch * num_taught, (seed, "order"), shuffle=shuffle)
        draws = [_Draws(taught, max_new_tokens, num_taught)]
        if rehearsal:
            passes = Passes(rehearsal.rows, len(rehearsal.rows), (seed, "rehearsal"), shuffle=shuffle)
            draws.append(_Draws(passes, rehearsal.max_new_tokens, num_rehearsed))
        self._slots = _slots(draws)
        self._position = 0

    def __iter__(self) -> "ExampleStream":
        return self

    def __next__(self) -> TokenizedExample:
        """The next example; a new epoch starts by itself."""
        batch, place = divmod(self._position, self._batch_size)
        draws, index = self._slots[place]
        row, epoch = draws.passes.at(batch * draws.per_batch + index)
        self._position += 1
        return TokenizedExample(
            example_id=row.example_id,
            epoch=epoch,
            seed=stable_hash(self._seed, row.example_id, epoch),
            max_new_tokens=draws.max_new_tokens,
            prompt_tokens=row.prompt_tokens,
            teacher_prompt_tokens=row.teacher_prompt_tokens,
            demonstration_tokens=row.demonstration_tokens,
            is_rehearsal=row.is_rehearsal,
        )

    @property
    def examples_per_epoch(self) -> int:
        """Examples drawn in one epoch, rehearsal included: a multiple of the batch size."""
        return self.steps_per_epoch * self._batch_size

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
        for key, mine in self._fingerprint().items():
            if state.get(key) != mine:
                raise CheckpointError(
                    f"the checkpoint's data state has {key}={state.get(key)}, this run has {mine}: the "
                    "examples would not go on where they stopped; give the run the data source, seed, "
                    "batch_size, data.shuffle and data.rehearsal it was started with, or begin a new one with "
                    "resume=never."
                )
        position = state.get("num_examples")
        if not isinstance(position, int) or position < 0:
            raise CheckpointError(
                f"the checkpoint's data state has num_examples={position}; resume from another checkpoint."
            )
        self._position = position

    def _fingerprint(self) -> dict[str, Any]:
        return {
            "examples": f"{stable_hash(*self._rows):016x}",
            "seed": self._seed,
            "batch_size": self._batch_size,
            "shuffle": self._shuffle,
            "rehearsal": self._rehearsal and f"{stable_hash(*self._rehearsal.rows):016x}",
            "rehearsal_per_batch": self._rehearsal and self._rehearsal.per_batch,
        }


def stable_hash(*parts: object) -> int:
    """63 bits of BLAKE2b: the widest non-negative number that every sampler takes as a seed."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
