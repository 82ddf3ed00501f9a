"""A sample of the data under every prompt that is compared: plain, with its demonstration, a pool's, a wrong one."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

from sdft_ray.config import DataConfig, Match, TeacherContext
from sdft_ray.conversation import Message, last_of
from sdft_ray.data.passes import whole_counts
from sdft_ray.data.pool import Pool, PoolOfEach
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.readers import Place
from sdft_ray.data.teacher_template import SHOWN
from sdft_ray.data.tokenized import MixPart
from sdft_ray.errors import ConfigError, DataError
from sdft_ray.evaluation.questions import given_texts
from sdft_ray.evaluation.scorers import Gold, check_gold, score
from sdft_ray.examples import Example

STUDENT = "student"  # under whose name the plain prompts are counted


class PoolSource(NamedTuple):
    """A pool that is compared, and what shows its demonstrations."""

    pool: Pool | PoolOfEach
    builders: Mapping[str, PromptBuilder]  # by template


class PoolPrompts(NamedTuple):
    """One example with a pool's demonstrations; where the pool has none for it, its plain prompt."""

    ids: tuple[str, ...]  # of the rows shown, nearest first
    shown_tokens: tuple[int, ...]  # [T'] of their demonstrations, one behind the other, with the last one's end token
    prompts: Mapping[str, tuple[int, ...]]  # by template, [P'']


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One example with the prompts it is asked under."""

    example_id: str
    seed: int  # of the completions the teacher samples
    gold: Gold | None  # None where the data has no answer
    given_texts: tuple[str, ...]  # of the prompt, which a completion may echo
    demonstration: str
    demonstration_tokens: tuple[int, ...]  # [T] with the token that ends the turn
    passes: bool  # whether the demonstration itself counts as right; True where there is no answer
    prompt_tokens: tuple[int, ...]  # [P]
    teacher_prompts: Mapping[str, tuple[int, ...]]  # by template, [P']
    wrong_id: str  # the example whose context the wrong teacher prompts show
    wrong_demonstration_tokens: tuple[int, ...]  # [T']
    wrong_prompts: Mapping[str, tuple[int, ...]]  # by template, [P'']
    pools: Mapping[str, PoolPrompts] = field(default_factory=dict)  # by retriever

    def finds_right(self, completion: str, match: Match) -> bool | None:
        """Whether a completion gives the answer, scored as an evaluation does; None where there is none."""
        return None if self.gold is None else score(completion, self.gold, match, self.given_texts).right

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        of_pools = (prompt for pool in self.pools.values() for prompt in pool.prompts.values())
        shown = (*self.teacher_prompts.values(), *self.wrong_prompts.values(), *of_pools)
        return max(map(len, (self.prompt_tokens, *shown)))


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptLengths:
    """How the prompts of one kind keep to their budget, over the whole sample."""

    key: str  # of the budget
    budget: int
    longest: int  # tokens
    num_over: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckSample:
    """What the model is asked, and what it is not."""

    probes: tuple[Probe, ...]
    num_available: int  # examples of the data
    num_unreadable: int  # drawn, but longer than the model's context under some prompt: asked under none
    lengths: Mapping[str, PromptLengths]  # of the student and of every template
    max_model_len: int  # tokens of the longest prompt with what comes behind it, plus one


def draw_sample(
    examples: Sequence[Example],
    builders: Mapping[str, PromptBuilder],
    *,
    num_examples: int,
    data: DataConfig,
    context: TeacherContext,
    match: Match,
    max_new_tokens: int,
    context_length: int,
    seed: int,
    places: Sequence[Place] = (),
    mix: Sequence[MixPart] = (),
    pools: Mapping[str, PoolSource] = MappingProxyType({}),
) -> CheckSample:
    """Draws examples and makes their prompts. Nothing is cut: what is over a budget is counted.

    Args:
        examples: the data.
        builders: by template.
        num_examples: how many to draw; all where there are not more.
        data: its budgets are used.
        context: what the teacher is shown.
        match: when an answer is right.
        max_new_tokens: of the longest completion that will be asked for.
        context_length: tokens the model reads.
        seed: the same seed draws the same examples.
        places: of the examples; () counts them from 1.
        mix: which examples are of which source, in their order, each of which gives its share; () for one source.
        pools: by retriever.

    Raises:
        DataError: there is one example only, or one lacks what the context shows or has an answer that `match`
            cannot read.
        ConfigError: fewer than two examples can be read, or there is nothing wrong to show one.
    """
    if len(examples) < 2:
        problem = "is the only example, so there is no other's demonstration to mislead the teacher with"
        raise DataError(data.origin, 1, problem, "give two examples at least")
    indices = _draw(mix or [MixPart("", 1.0, len(examples))], num_examples, seed)
    drawn = [examples[index] for index in indices]
    of_drawn = [places[index] if places else Place(data.origin, index + 1) for index in indices]
    passes = [_passes(*row, builders, match) for row in zip(drawn, of_drawn, strict=True)]
    partners = _wrong_partners(drawn, SHOWN[context], match, seed)
    filled = {name: (source.pool.fill(drawn), source.builders) for name, source in pools.items()}
    probes = []
    for place, example in enumerate(drawn):
        probe = _probe(example, drawn[partners[place]], builders, passes=passes[place], seed=seed)
        probes.append(replace(probe, pools={n: _pool_prompts(found[place], by) for n, (found, by) in filled.items()}))
    readable = _readable(probes, num_examples, max_new_tokens, context_length)
    return CheckSample(
        probes=tuple(probe for probe, _ in readable),
        num_available=len(examples),
        num_unreadable=len(probes) - len(readable),
        lengths=_lengths(probes, data),
        max_model_len=max(length for _, length in readable),
    )


def _readable(
    probes: Sequence[Probe], num_examples: int, max_new_tokens: int, context_length: int
) -> list[tuple[Probe, int]]:
    """The probes that fit into the context, each with the tokens it needs.

    Raises:
        ConfigError: fewer than two do.
    """
    needed = [probe.longest_prompt + max(max_new_tokens, len(probe.demonstration_tokens)) + 1 for probe in probes]
    readable = [(probe, length) for probe, length in zip(probes, needed, strict=True) if length <= context_length]
    if len(readable) < 2:
        problem = (
            f"of {len(probes)} examples drawn {len(readable)} fit into the {context_length} tokens the model reads, "
            f"with completions of {max_new_tokens}"
        )
        remedy = "lower rollout.max_new_tokens and check.max_new_tokens, or take a model that reads more"
        raise ConfigError("check.num_examples", num_examples, problem, remedy)
    return readable


def _draw(mix: Sequence[MixPart], num_examples: int, seed: int) -> list[int]:
    """Places in the data, ascending, each at most once; of every source its share, or all that it has."""
    shares = whole_counts(num_examples, [part.weight for part in mix])
    drawn: list[int] = []
    start = 0
    for part, share in zip(mix, shares, strict=True):
        key = f"check-{seed}" + f"-{part.name}" * bool(part.name)
        rows = range(start, start + part.num_rows)
        drawn += sorted(random.Random(key).sample(rows, min(share, part.num_rows)))
        start += part.num_rows
    return drawn


def _passes(example: Example, place: Place, builders: Mapping[str, PromptBuilder], match: Match) -> bool:
    """Whether the demonstration itself would count as right; refuses an example that cannot be used."""
    for builder in builders.values():
        builder.check_context(example, *place)
    gold = _gold(example)
    if gold is None:
        return True
    try:
        check_gold(gold, match)
    except ValueError as error:
        problem = f"the answer of {example.example_id!r} does not fit check.match={match.name}: {error}"
        raise DataError(*place, problem, "mend it, or set another check.match") from error
    return bool(score(example.demonstration, gold, match).right)


def _gold(example: Example) -> Gold | None:
    return Gold(example.answer, example.acceptable) if example.answer.strip() else None


def _wrong_partners(examples: Sequence[Example], shown: Sequence[str], match: Match, seed: int) -> list[int]:
    """For each example the place of another one that shows nothing of it.

    A seeded circular order pairs each example with the next one, so each is a partner once, and none its own. Where the
    next shows the same, or would be right as well, the nearest behind it that does not is taken.

    Raises:
        ConfigError: an example has no such partner in the sample.
    """
    order = list(range(len(examples)))
    random.Random(f"check-partners-{seed}").shuffle(order)
    partners = [0] * len(order)
    for position, place in enumerate(order):
        following = (order[(position + step) % len(order)] for step in range(1, len(order)))
        found = next(
            (other for other in following if _is_wrong_for(examples[place], examples[other], shown, match)), None
        )
        if found is None:
            raise ConfigError(
                "check.num_examples",
                len(order),
                f"no other example drawn would show {examples[place].example_id!r} something wrong",
                "raise it, or give data whose demonstrations differ",
            )
        partners[place] = found
    return partners


def _is_wrong_for(example: Example, other: Example, shown: Sequence[str], match: Match) -> bool:
    filled = [field for field in {*shown, "demonstration"} if getattr(example, field).strip()]
    if any(getattr(example, field).split() == getattr(other, field).split() for field in filled):
        return False
    if example.teacher_messages and example.teacher_messages == other.teacher_messages:
        return False
    gold = _gold(example)
    return gold is None or not score(other.demonstration, gold, match).right


def _probe(
    example: Example, other: Example, builders: Mapping[str, PromptBuilder], *, passes: bool, seed: int
) -> Probe:
    wrong = replace(
        example,
        demonstration=other.demonstration,
        demonstration_turn=other.demonstration_turn,
        text=other.text,
        teacher_messages=_asking(example, other) if example.teacher_messages else (),
    )
    builder = next(iter(builders.values()))
    return Probe(
        example_id=example.example_id,
        seed=random.Random(f"check-{seed}-{example.example_id}").getrandbits(63),
        gold=_gold(example),
        given_texts=given_texts(example.prompt),
        demonstration=example.demonstration,
        demonstration_tokens=builder.demonstration(example),
        passes=passes,
        prompt_tokens=builder.student(example),
        teacher_prompts={template: prompts.teacher(example) for template, prompts in builders.items()},
        wrong_id=other.example_id,
        wrong_demonstration_tokens=builder.demonstration(wrong),
        wrong_prompts={template: prompts.teacher(wrong) for template, prompts in builders.items()},
    )


def _asking(example: Example, other: Example) -> tuple[Message, ...]:
    """The conversation of the other's teacher, with this example's question wherever the other's stands in it."""
    own, others = (each.prompt[last_of("user", each.prompt)].content for each in (example, other))
    return tuple(replace(turn, content=turn.content.replace(others, own)) for turn in other.teacher_messages)


def _pool_prompts(example: Example, builders: Mapping[str, PromptBuilder]) -> PoolPrompts:
    own = next(iter(builders.values()))
    if not example.pool_hits:
        return PoolPrompts((), (), dict.fromkeys(builders, own.student(example)))
    hits = [replace(hit, prompt=example.prompt, tools=example.tools) for hit, _ in example.pool_hits]
    *before, last = map(own.demonstration, hits)
    return PoolPrompts(
        ids=tuple(hit.example_id for hit in hits),
        shown_tokens=(*(token for tokens in before for token in tokens[:-1]), *last),
        prompts={template: prompts.teacher(example) for template, prompts in builders.items()},
    )


def _lengths(probes: Sequence[Probe], data: DataConfig) -> dict[str, PromptLengths]:
    lengths = {STUDENT: [len(probe.prompt_tokens) for probe in probes]}
    for template in probes[0].teacher_prompts:
        lengths[template] = [len(probe.teacher_prompts[template]) for probe in probes]
    budgets = {name: "max_teacher_prompt_tokens" for name in lengths} | {STUDENT: "max_prompt_tokens"}
    return {
        name: PromptLengths(
            key=f"data.{budgets[name]}",
            budget=getattr(data, budgets[name]),
            longest=max(tokens),
            num_over=sum(length > getattr(data, budgets[name]) for length in tokens),
        )
        for name, tokens in lengths.items()
    }
