"""Tokenised data sets in the user's cache folder: a start with the same rows and settings reads none of them again.

A file is named by a fingerprint of everything that decides what is in it (`data/fingerprint.py`). It is a digest and
an npz archive, which may hold no objects. It comes into its place by one move, so two runs may write it at once. The
least recently used files go where all together are larger than `LIMIT_GIB`.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sdft_ray.data.readers import Place
from sdft_ray.data.tokenized import TokenColumn, TokenizedDataset, TokenizedRows

MIN_ROWS = 2000  # fewer are read anew faster than anybody notices
LIMIT_GIB = 4.0
ABANDONED_AFTER_S = 24 * 3600.0  # a file that a killed process was writing
_GIB = 2**30
_DIGEST_SIZE = 32  # bytes at the head of a file
_COLUMNS = ("prompts", "teacher_prompts", "demonstrations")


class DatasetCache:
    """One folder of data sets."""

    def __init__(self, folder: Path):
        """`folder` is made when something is kept in it."""
        self._folder = folder

    def path(self, fingerprint: str) -> Path:
        """The file of a fingerprint."""
        return self._folder / f"{fingerprint}.rows"

    def load(self, fingerprint: str) -> TokenizedDataset | None:
        """The data set of a fingerprint; None where there is none.

        Raises:
            ValueError: its file is damaged.
            OSError: its file cannot be read.
        """
        path = self.path(fingerprint)
        try:
            with path.open("rb") as file:
                if file.read(_DIGEST_SIZE) != _digest(file):
                    raise ValueError("its content is not what was written")
                file.seek(_DIGEST_SIZE)
                with np.load(file, allow_pickle=False) as archive:
                    dataset = _unpacked(archive)
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):  # of a folder that may only be read: then the file just seems older
            os.utime(path)
        return dataset

    def store(self, fingerprint: str, dataset: TokenizedDataset) -> None:
        """Keeps a data set, and removes others that are too much.

        Raises:
            OSError: it cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._folder, suffix=".new")
        try:
            with os.fdopen(descriptor, "w+b") as file:
                file.write(bytes(_DIGEST_SIZE))
                np.savez(file, allow_pickle=False, **_packed(dataset))
                file.seek(_DIGEST_SIZE)
                digest = _digest(file)
                file.seek(0)
                file.write(digest)
            os.replace(name, self.path(fingerprint))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        self._remove_oldest()

    def _remove_oldest(self) -> None:
        """Keeps the files within their limit; another process may do the same meanwhile."""
        files = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                files.append((path.stat().st_mtime, path.stat().st_size, path))
        now, num_bytes = time.time(), 0
        for used_at, size, path in sorted(files, reverse=True):
            if path.suffix == ".rows":
                num_bytes += size
            is_abandoned = path.suffix == ".new" and now - used_at > ABANDONED_AFTER_S
            if is_abandoned or (path.suffix == ".rows" and num_bytes > LIMIT_GIB * _GIB):
                path.unlink(missing_ok=True)


def _packed(dataset: TokenizedDataset) -> dict[str, Any]:
    sources = dict.fromkeys(place.source for place in dataset.places)
    numbers = {source: number for number, source in enumerate(sources)}
    hits = dataset.rows.pool_hits if any(dataset.rows.pool_hits) else None
    head = {"sources": list(numbers), "notes": dataset.notes, "pool_hits": hits}
    ids = [example_id.encode() for example_id in dataset.rows.example_ids]
    arrays: dict[str, np.ndarray] = {
        "head": np.frombuffer(json.dumps(head).encode(), dtype=np.uint8),
        "ids": np.frombuffer(b"".join(ids), dtype=np.uint8),
        "source_numbers": np.array([numbers[place.source] for place in dataset.places], dtype=np.int64),
        "lines": np.array([place.line for place in dataset.places], dtype=np.int64),
        "id_lengths": np.array([len(one) for one in ids], dtype=np.int64),
    }
    for name, column in zip(_COLUMNS, dataset.rows.columns, strict=True):
        arrays |= {name: column.tokens, f"{name}_lengths": column.lengths}
    return arrays


def _unpacked(archive: Any) -> TokenizedDataset:
    head = json.loads(archive["head"].tobytes())
    columns = (TokenColumn(archive[name], archive[f"{name}_lengths"]) for name in _COLUMNS)
    example_ids = tuple(_ids(archive["ids"].tobytes(), archive["id_lengths"].tolist()))
    hits = head["pool_hits"] or [()] * len(example_ids)
    pool_hits = tuple(tuple((name, score) for name, score in of) for of in hits)
    rows = TokenizedRows(example_ids, pool_hits, *columns)
    sources = (head["sources"][number] for number in archive["source_numbers"].tolist())
    places = tuple(map(Place, sources, archive["lines"].tolist()))
    return TokenizedDataset(rows=rows, places=places, notes=tuple(head["notes"]))


def _ids(joined: bytes, lengths: list[int]) -> Iterator[str]:
    begin = 0
    for length in lengths:
        yield joined[begin : begin + length].decode()
        begin += length


def _digest(file: BinaryIO) -> bytes:
    """Of everything behind where the file stands."""
    digest = hashlib.blake2b(digest_size=_DIGEST_SIZE)
    while block := file.read(2**20):
        digest.update(block)
    return digest.digest()
