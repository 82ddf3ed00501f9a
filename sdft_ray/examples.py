"""Examples: a row of a data set, and what it is as token ids. `records.py` goes on from there, with its shapes."""

from dataclasses import dataclass

from sdft_ray.conversation import INSTRUCTING, Message, last_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One row of a data set: a prompt with its demonstration."""

    example_id: str
    prompt: tuple[Message, ...]
    demonstration: str
    text: str = ""  # the article the demonstration was drawn from; "" where the data has none
    answer: str = ""  # what a right completion has to contain or equal; "" where nothing is scored
    acceptable: str = ""  # JSON: what else a tool call's arguments may be, see evaluation/scorers/tool_call.py
    tools: str = ""  # JSON text of the list of schemas that the chat template shows on both sides; "" shows none
    demonstration_turn: Message | None = None  # where it calls tools: the turn of which `demonstration` is the text
    teacher_messages: tuple[Message, ...] = ()  # what the teacher reads instead of its template; () where it reads that
    further_demonstrations: tuple[str, ...] = ()  # of this very prompt
    context: str = ""  # JSON: an object of fields that the teacher's template may name; "" where the data has none
    pool_hits: tuple[tuple["Example", float], ...] = ()  # the pool's rows with their scores, nearest first

    @property
    def question(self) -> str:
        """What is asked: the last turn of the user, behind which tools may have answered; "" without a prompt."""
        return self.prompt[last_of("user", self.prompt)].content if self.prompt else ""

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The turns of the prompt that do not instruct the model: what another row is shown of it."""
        return tuple(turn for turn in self.prompt if turn.role not in INSTRUCTING)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedExample:
    """An example as token ids, with the seed that makes its completion reproducible."""

    example_id: str
    epoch: int
    seed: int  # derived from (run seed, example, epoch), so it does not depend on which worker samples
    max_new_tokens: int  # a sampled completion is cut there
    prompt_tokens: tuple[int, ...]  # [P]
    teacher_prompt_tokens: tuple[int, ...]  # [P'] the same prompt with the demonstration in it
    demonstration_tokens: tuple[int, ...]  # [T] with the end-of-sequence token
    pool_hits: tuple[tuple[str, float], ...] = ()  # ids and scores of the pool's rows in the teacher prompt
    is_rehearsal: bool = False  # no demonstration: taught by the plain prompt and the weights the run began with


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardRow:
    """A real row that the guards of a start compute in two ways: a student prompt with its demonstration."""

    prompt_tokens: tuple[int, ...]  # [P]
    completion_tokens: tuple[int, ...]  # [T] the demonstration, with the token that ends it
