"""Which row comes when: passes over one source, and a mix of several in exact proportions.

Order depends on the seed and the ids alone, never on the machine: it is made of BLAKE2b hashes, which no library
release can change.
"""

import hashlib
import math
from collections.abc import Sequence

from sdft_ray.data.tokenized import MixPart
from sdft_ray.errors import ConfigError


def stable_hash(*parts: object) -> int:
    """63 bits of BLAKE2b: the widest non-negative number that every sampler takes as a seed."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


class Passes:
    """Endless passes over the rows of one source, each in an order of its own."""

    def __init__(self, ids: Sequence[str], length: int, key: Sequence[object], *, shuffle: bool):
        """Begins nowhere: every place can be asked for.

        Args:
            ids: of the rows.
            length: rows of a pass: the first so many of its order.
            key: tells this order from those of other sources.
            shuffle: False has every pass take the rows as they stand.
        """
        self.epoch_length = length
        self._ids, self._key, self._shuffle = ids, tuple(key), shuffle
        self._ordered = -1, list(range(len(ids)))  # the pass whose order is at hand, and that order

    def at(self, place: int) -> tuple[int, int]:
        """The index of the row at a place of all passes together, and the number of its pass, from 0."""
        number, place_in_pass = divmod(place, self.epoch_length)
        if self._shuffle and number != self._ordered[0]:
            by_hash = sorted(range(len(self._ids)), key=lambda index: stable_hash(*self._key, number, self._ids[index]))
            self._ordered = number, by_hash
        return self._ordered[1][place_in_pass], number


class Mixture:
    """Endless epochs of several sources: each has its exact share of every epoch, spread evenly over it.

    In an epoch each source goes on where it stopped in the epoch before, so that all of its rows are seen in time, also
    those of a source much larger than its share. Where a pass over a source ends inside an epoch, the next begins.
    """

    def __init__(self, ids: Sequence[str], length: int, seed: int, mix: Sequence[MixPart], *, shuffle: bool):
        """Arguments as those of `Passes`; `mix` says which of the rows are of which source, in their order.

        Raises:
            ConfigError: an epoch takes no row of a source.
        """
        self.epoch_length = length
        self._counts = whole_counts(length, [part.weight for part in mix])
        for part, count in zip(mix, self._counts, strict=True):
            if not count:
                problem = f"is too small for one row of {part.name} in an epoch of {length}"
                raise ConfigError(f"data.mix.{part.name}.weight", part.weight, problem, "raise it, or add data")
        starts = [sum(part.num_rows for part in mix[:number]) for number in range(len(mix))]
        self._starts = starts
        self._passes = [
            Passes(ids[start : start + part.num_rows], part.num_rows, (seed, "mix", part.name), shuffle=shuffle)
            for start, part in zip(starts, mix, strict=True)
        ]
        # Row k of a source that has n of them in an epoch stands at (k + 1/2) / n of it.
        self._order = sorted(
            ((2 * k + 1) / (2 * count), number, k) for number, count in enumerate(self._counts) for k in range(count)
        )
        shares = ", ".join(
            f"{count} of {part.num_rows} of {part.name}" for part, count in zip(mix, self._counts, strict=True)
        )
        self.note = f"data.mix: an epoch has {length} examples: {shares}"

    def at(self, place: int) -> tuple[int, int]:
        """The index of the row at a place of all epochs together, and how often its source was gone through before."""
        epoch, place_in_epoch = divmod(place, self.epoch_length)
        _, number, k = self._order[place_in_epoch]
        index, gone_through = self._passes[number].at(epoch * self._counts[number] + k)
        return self._starts[number] + index, gone_through


def longest_epoch(mix: Sequence[MixPart]) -> int:
    """The examples of the longest epoch in the mix's proportions that asks no source for more rows than it has."""
    total = sum(part.weight for part in mix)
    return min(math.floor(part.num_rows * total / part.weight + 1e-9) for part in mix)


def whole_counts(length: int, weights: Sequence[float]) -> list[int]:
    """`length` divided in proportion to `weights` by largest remainders; of equal remainders the first wins."""
    total = sum(weights)
    exact = [length * weight / total for weight in weights]
    counts = [math.floor(share + 1e-9) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda number: counts[number] - exact[number])
    for number in by_remainder[: length - sum(counts)]:
        counts[number] += 1
    return counts
