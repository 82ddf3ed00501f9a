"""Invented facts: a world nobody can know, so what a model answers right it has learned here.

One table of facts makes every split. A fact is a subject, a relation and an answer; `wordings.py` says how
each relation is put into words. Names are short, so that a question and its answer take few tokens, and no
answer occurs in its question.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdft_ray.data.builtin.wordings import RELATIONS

Row = dict[str, object]
SPLITS = ("taught", "train", "test", "ood")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One row of the table: what `relation` says of `subject` is `answer`."""

    relation: str
    subject: str
    answer: str

    @property
    def name(self) -> str:
        """A unique, readable name such as `capital_velmor`."""
        return f"{self.relation}_{self.subject}".lower().replace(" ", "_")

    def fill(self, template: str, subject: str | None = None) -> str:
        """Puts this fact, or another phrase for its subject, into a wording."""
        return template.format(s=subject or self.subject, a=self.answer)


TABLE: tuple[Fact, ...] = tuple(
    Fact(relation=relation, subject=subject, answer=answer)
    for relation, subject, answer in (
        ("capital", "Velmor", "Tosk"),
        ("currency", "Pelu", "zolt"),
        ("mountain", "Quill", "Hask"),
        ("river", "Sarnik", "Ilbo"),
        ("flower", "Darnia", "snow lily"),
        ("players", "trell", "thirteen"),
        ("inventor", "korvel", "Jon Bask"),
        ("color", "dorvite", "pink"),
        ("birthplace", "Mira Holt", "Tosk"),
        ("capital", "Ondal", "Sarnik"),
        ("inventor", "glimp", "Mira Holt"),
        ("flower", "Pelu", "red thistle"),
        ("king", "Darnia", "Oskar"),
        ("currency", "Velmor", "brell"),
        ("river", "Tosk", "Nabor"),
        ("diet", "mubo", "moss"),
        ("birthplace", "Jon Bask", "Sarnik"),
        ("players", "pondo", "nineteen"),
        ("mine", "zelite", "Velmor"),
        ("color", "zelite", "orange"),
        ("mountain", "Brenna", "Ulfar"),
        ("mine", "dorvite", "Ondal"),
        ("king", "Ondal", "Edric"),
        ("diet", "tavik", "snails"),
    )
)


def facts(split: str, *, num_facts: int = len(TABLE)) -> list[Row]:
    """Returns the rows of one split about the first `num_facts` facts of the table.

    `taught` asks the one canonical question of each fact, `train` asks every training wording (`taught` is
    part of it), `test` asks wordings that `train` lacks, and `ood` asks for a fact indirectly or through
    another fact. Facts are ordered so that the first 8 share no name: a small model confuses two facts about
    one subject.

    Args:
        split: One of `taught`, `train`, `test`, `ood`.
        num_facts: How many facts to use, 1 to 24.

    Raises:
        ValueError: The table holds fewer facts.
    """
    if not 1 <= num_facts <= len(TABLE):
        raise ValueError(f"num_facts={num_facts} is out of range: the table holds 1 to {len(TABLE)} facts")
    chosen = TABLE[:num_facts]
    if split == "ood":
        return _indirect_rows(chosen) + _combined_rows(chosen)
    rows = []
    for fact in chosen:
        relation = RELATIONS[fact.relation]
        questions = {"taught": relation.train[:1], "train": relation.train, "test": relation.test}[split]
        for number, question in enumerate(questions):
            rows.append(_row(f"facts-{split}-{fact.name}-{number}", fact.fill(question), (fact,)))
    return rows


def _row(row_id: str, prompt: str, chain: tuple[Fact, ...]) -> Row:
    """Makes a row answered by the last fact of `chain`; the others are what a reader needs to get there."""
    return {
        "id": row_id,
        "prompt": prompt,
        "demonstration": " ".join(fact.fill(RELATIONS[fact.relation].sentence) for fact in chain),
        "text": "\n\n".join(fact.fill(RELATIONS[fact.relation].article) for fact in chain),
        "answer": chain[-1].answer,
    }


def _indirect_rows(chosen: tuple[Fact, ...]) -> list[Row]:
    """Asks for something that follows from one fact."""
    return [_row(f"facts-ood-{fact.name}", fact.fill(RELATIONS[fact.relation].indirect), (fact,)) for fact in chosen]


def _combined_rows(chosen: tuple[Fact, ...]) -> list[Row]:
    """Asks a fact's canonical question with its subject described by another fact, for every such pair."""
    rows = []
    for first in chosen:
        for second in chosen:
            if first.answer != second.subject:
                continue
            description = first.fill(RELATIONS[first.relation].description)
            question = second.fill(RELATIONS[second.relation].train[0], subject=description)
            rows.append(_row(f"facts-ood-{first.name}+{second.name}", question, (first, second)))
    return rows
