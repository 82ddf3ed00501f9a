"""Retrievers: what finds the documents of a pool that stand nearest to a query.

A retriever by embeddings is one more class with `search`, a member of `config.pool.Retriever` and its line in `MAKERS`.
"""

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from sdft_ray.config import Retriever

# A letter of a script that is written without spaces is a word of its own.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


LARGE = 1000  # documents


class Query(NamedTuple):
    """What is looked for."""

    name: str  # unique among the queries
    text: str


class Hit(NamedTuple):
    """A document that was found."""

    place: int  # of the document
    score: float  # larger is nearer


class Search(Protocol):
    """A retriever over documents that it has read."""

    def search(self, queries: Sequence[Query], num: int) -> Iterator[list[Hit]]:
        """For each query its documents, nearest first, each at most once: `num`, or fewer where it finds no more."""
        ...


class Bm25:
    """BM25 in Lucene's form over words in lower case. Equal scores keep the order of the documents.

    A document that shares no word with a query is not found. A word counts once in a query, however often a prompt
    repeats it. Among more than `LARGE` documents, words that stand in over half of them are passed over where a query
    has others: they weigh next to nothing, and take most of the time.
    """

    def __init__(self, documents: Sequence[str], seed: int):
        """Indexes the documents; `seed` is of no account here."""
        import bm25s  # here, because few runs need it

        self._num_documents = len(documents)
        self._index = bm25s.BM25()
        words = [_words(document) or [""] for document in documents]
        self._index.index(words, show_progress=False)
        counts = Counter(word for document in words for word in set(document))
        most = len(documents) / 2 if len(documents) > LARGE else len(documents)
        self._is_rare = {word: count <= most for word, count in counts.items() if word}

    def search(self, queries: Sequence[Query], num: int) -> Iterator[list[Hit]]:
        """See `Search`. A query takes one pass over the index in numpy."""
        num = min(num, self._num_documents)
        for query in queries:
            shared = [word for word in dict.fromkeys(_words(query.text)) if word in self._is_rare]
            if not shared:
                yield []
                continue
            scores = self._index.get_scores([word for word in shared if self._is_rare[word]] or shared)
            # Not numpy's partition alone: which of several equal scores it leaves in front depends on the machine.
            least = np.partition(scores, self._num_documents - num)[self._num_documents - num]
            above = np.flatnonzero(scores > least)
            nearest = above[np.argsort(-scores[above], kind="stable")].tolist()
            nearest += np.flatnonzero(scores == least)[: num - len(nearest)].tolist()
            yield [Hit(index, float(scores[index])) for index in nearest if scores[index] > 0]


class RandomDraw:
    """Documents drawn for each query by itself, from the seed and the query's name."""

    def __init__(self, documents: Sequence[str], seed: int):
        """Draws from as many documents as there are."""
        self._num_documents = len(documents)
        self._seed = seed

    def search(self, queries: Sequence[Query], num: int) -> Iterator[list[Hit]]:
        """See `Search`; every score is 0."""
        for query in queries:
            generator = random.Random(f"pool-{self._seed}-{query.name}")
            drawn = generator.sample(range(self._num_documents), min(num, self._num_documents))
            yield [Hit(index, 0.0) for index in drawn]


MAKERS: dict[Retriever, Callable[[Sequence[str], int], Search]] = {
    Retriever.BM25: Bm25,
    Retriever.RANDOM: RandomDraw,
}


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text).casefold())
