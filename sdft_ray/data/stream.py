"""The endless stream of examples that a run draws from: of one source or a mix of several, and rehearsal among them."""

from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

from sdft_ray.data.passes import Mixture, Passes, longest_epoch, stable_hash
from sdft_ray.data.rehearsal import Rehearsal
from sdft_ray.data.tokenized import MixPart, TokenizedRow, TokenizedRows
from sdft_ray.errors import CheckpointError, ConfigError
from sdft_ray.examples import TokenizedExample


class _Draws(NamedTuple):
    """What a batch takes of one kind of rows."""

    rows: Sequence[TokenizedRow]
    order: Passes | Mixture  # of these rows
    per_batch: int
    max_new_tokens: int
    is_rehearsal: bool


class ExampleStream:
    """An endless stream of examples, seeded, shuffled anew every epoch, and resumable at any place.

    What comes at a position depends on the seed and the example ids alone, never on the machine: order and
    request seeds are made of BLAKE2b hashes, which no library release can change. The last, partial batch of
    an epoch is dropped (docs/method.md), so a batch never spans two epochs.

    Rehearsal rows have the same places in every batch, so the position alone says how many were drawn. Their epoch, and
    that of a row of a mix, is how often its source has been gone through.
    """

    def __init__(
        self,
        rows: Sequence[TokenizedRow],
        *,
        batch_size: int,
        seed: int,
        max_new_tokens: int,
        shuffle: bool = True,
        mix: Sequence[MixPart] = (),
        rehearsal: Rehearsal | None = None,
    ):
        """Starts at the first example of epoch 0.

        Args:
            rows: the examples.
            batch_size: rows of a batch, rehearsal included.
            seed: of the order and of every completion.
            max_new_tokens: of the completion of an example.
            shuffle: whether each epoch has an order of its own.
            mix: which of `rows` are of which source, in their order; () for one source.
            rehearsal: the rows that every batch holds besides.

        Raises:
            ConfigError: an epoch does not fill one batch, or takes no row of a source of the mix.
        """
        self._rows = TokenizedRows.of(rows)
        self._batch_size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        self._mix = tuple(mix)
        self._rehearsal = rehearsal
        num_rehearsed = rehearsal.per_batch if rehearsal else 0
        order = self._order_of_examples(batch_size - num_rehearsed, num_rehearsed)
        self.steps_per_epoch = order.epoch_length // (batch_size - num_rehearsed)
        draws = [_Draws(self._rows, order, batch_size - num_rehearsed, max_new_tokens, False)]
        if rehearsal:
            ids = rehearsal.rows.example_ids
            passes = Passes(ids, len(ids), (seed, "rehearsal"), shuffle=shuffle)
            draws.append(_Draws(rehearsal.rows, passes, num_rehearsed, rehearsal.max_new_tokens, True))
        self._places = _places(draws)
        self._position = 0

    def __iter__(self) -> "ExampleStream":
        return self

    def __next__(self) -> TokenizedExample:
        """The next example; a new epoch starts by itself."""
        batch, place = divmod(self._position, self._batch_size)
        draws, number = self._places[place]
        index, epoch = draws.order.at(batch * draws.per_batch + number)
        row = draws.rows[index]
        self._position += 1
        return TokenizedExample(
            example_id=row.example_id,
            epoch=epoch,
            seed=stable_hash(self._seed, row.example_id, epoch),
            max_new_tokens=draws.max_new_tokens,
            prompt_tokens=row.prompt_tokens,
            teacher_prompt_tokens=row.teacher_prompt_tokens,
            demonstration_tokens=row.demonstration_tokens,
            pool_hits=row.pool_hits,
            is_rehearsal=draws.is_rehearsal,
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
                    "batch_size, data.shuffle, data.mix and data.rehearsal it was started with, or begin a new one "
                    "with resume=never."
                )
        position = state.get("num_examples")
        if not isinstance(position, int) or position < 0:
            raise CheckpointError(
                f"the checkpoint's data state has num_examples={position}; resume from another checkpoint."
            )
        self._position = position

    @cached_property
    def _digest(self) -> str:
        """Of all rows; made once, since every checkpoint asks for it."""
        return self._rows.digest()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of an epoch, a sentence each."""
        order = self._places[0][0].order
        of_mix = (order.note,) if isinstance(order, Mixture) else ()
        return (*of_mix, *(self._rehearsal.notes if self._rehearsal else ()))

    @property
    def longest_rehearsal(self) -> int:
        """Tokens of the longest rehearsal prompt with its completion, plus one; 0 where nothing is rehearsed."""
        return self._rehearsal.longest + 1 if self._rehearsal else 0

    def _order_of_examples(self, per_batch: int, num_rehearsed: int) -> Passes | Mixture:
        ids = self._rows.example_ids
        available = longest_epoch(self._mix) if self._mix else len(ids)
        if available < per_batch:
            of_mix = " in the proportions of data.mix" if self._mix else ""
            problem = f"the data has only {available} examples{of_mix}, so an epoch has no full batch"
            remedy = f"set batch_size={max(1, available) + num_rehearsed} or smaller, or add data"
            raise ConfigError("batch_size", self._batch_size, problem, remedy)
        length = available // per_batch * per_batch
        if self._mix:
            return Mixture(ids, length, self._seed, self._mix, shuffle=self._shuffle)
        return Passes(ids, length, (self._seed, "order"), shuffle=self._shuffle)

    def _fingerprint(self) -> dict[str, Any]:
        return {
            "rows": self._digest,
            "seed": self._seed,
            "batch_size": self._batch_size,
            "shuffle": self._shuffle,
            "mix": [list(part) for part in self._mix] or None,
            "rehearsal": self._rehearsal and self._rehearsal.rows.digest(),
            "rehearsal_per_batch": self._rehearsal and self._rehearsal.per_batch,
        }


def _places(draws: Sequence[_Draws]) -> list[tuple[_Draws, int]]:
    """Whose row each place of a batch has, and which of the batch's rows of that kind it is.

    Rehearsal begins at the second place and is spread evenly: the first samples of a batch are those shown to people,
    and one of each kind is among them.
    """
    batch_size = sum(each.per_batch for each in draws)
    rehearsed = draws[-1].per_batch if draws[-1].is_rehearsal else 0
    places = {1 + index * (batch_size - 1) // rehearsed for index in range(rehearsed)}
    counts = [0, 0]
    chosen = []
    for place in range(batch_size):
        kind = int(place in places)
        chosen.append((draws[kind], counts[kind]))
        counts[kind] += 1
    return chosen
