"""Built-in example sets: small, deterministic, made in memory, so that a first run needs no download.

Rows are plain dictionaries with the keys of a JSON Lines file: `id`, `prompt`, `demonstration` and, where
there is one, `text` (the article a fact comes from) and `answer` (what a scorer looks for). The rows of `general` and
`everyday` are prompts and nothing else.
"""

from __future__ import annotations

from sdft_ray.data.builtin import everyday as _everyday
from sdft_ray.data.builtin import facts as _facts
from sdft_ray.data.builtin import general as _general
from sdft_ray.data.builtin import prior as _prior
from sdft_ray.data.builtin import tools as _tools

Row = dict[str, object]

BUILTIN: dict[str, tuple[str, ...]] = {
    "facts": _facts.SPLITS,
    "tools": _tools.SPLITS,
    "prior": _prior.SPLITS,
    "general": _general.SPLITS,
    "everyday": _everyday.SPLITS,
}
"""Every built-in set with its splits."""


def load(name: str, split: str, num: int | None = None) -> list[Row]:
    """Returns the rows of one split of a built-in set.

    Args:
        name: `facts`, `tools`, `prior`, `general` or `everyday`.
        split: One of `BUILTIN[name]`.
        num: How many facts (each gives several rows) or, for the other sets, rows. None means the default.

    Raises:
        ValueError: There is no such set, split or number; the message lists what there is.
    """
    if name not in BUILTIN:
        raise ValueError(f"there is no built-in set {name!r}; there are {', '.join(BUILTIN)}")
    if split not in BUILTIN[name]:
        raise ValueError(f"the built-in set {name!r} has no split {split!r}; it has {', '.join(BUILTIN[name])}")
    if name == "facts":
        return _facts.facts(split) if num is None else _facts.facts(split, num_facts=num)
    if name == "tools":
        return _tools.tools(split, num_rows=num)
    rows = _general.general(split) if name == "general" else _QUESTIONS[name]()
    if num is not None and not 1 <= num <= len(rows):
        raise ValueError(f"num={num} is out of range: {name} has 1 to {len(rows)} rows")
    return rows[:num]


_QUESTIONS = {"prior": _prior.prior, "everyday": _everyday.everyday}
