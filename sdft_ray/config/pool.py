"""Settings of the pool: other rows' demonstrations, and which of them a row is shown."""

from dataclasses import dataclass
from enum import Enum, auto

from sdft_ray.config.validation import at_least


class Retriever(Enum):
    """What finds a row's demonstrations in the pool."""

    BM25 = auto()  # the rows whose prompts share the rarest words with the row's own
    RANDOM = auto()  # any rows, drawn anew for every row


class DemonstrationSource(Enum):
    """Whose demonstrations the teacher is shown."""

    OWN = auto()  # the row's
    POOL = auto()  # those of other rows; the row needs none
    OWN_AND_POOL = auto()  # the row's, if it has one, then those of other rows


@dataclass(kw_only=True)
class PoolConfig:
    """Where demonstrations of other rows come from, and how many of them a row is shown."""

    source: str = ""  # as data.source, read with data.columns and data.split; "" is the training data itself
    retriever: Retriever = Retriever.BM25
    num: int = 1  # rows that are shown beside each other, of different prompts
    exclude_own: bool = True  # leaves out every row with the same prompt, in whatever source and spelling
    seed: int = 0  # of RANDOM: each row's draw is made of it and the row's id

    def __post_init__(self) -> None:
        at_least(1, "teacher.pool.num", self.num)
