"""The student prompt, the teacher prompt and the demonstration of an example, as token ids.

The teacher prompt is the student's with its last turn replaced by turns that also hold the demonstration. All three
come from one chat template, so student and teacher differ in nothing but the context.
"""

from collections.abc import Collection
from typing import Any

from sdft_ray.config import DemonstrationSource, TeacherConfig
from sdft_ray.data.chat import ChatEncoder
from sdft_ray.data.pool import question_of
from sdft_ray.data.teacher_template import SHOW_ALL, SHOWN, Demonstration, LackingField, TeacherTemplate
from sdft_ray.errors import ConfigError, DataError, ModelError
from sdft_ray.records import Example, Message


class PromptBuilder:
    """Turns examples into token ids."""

    def __init__(
        self, tokenizer: Any, teacher: TeacherConfig, *, special_tokens: bool = False, stop_tokens: Collection[int] = ()
    ):
        """Checks the tokenizer and the teacher's template once, before any example.

        Args:
            tokenizer: a transformers tokenizer with a chat template.
            teacher: its template and context are used.
            special_tokens: data.special_tokens.
            stop_tokens: ids at which the sampler ends a completion, besides the tokenizer's end of sequence.

        Raises:
            ModelError: the tokenizer has no chat template or no end-of-sequence token.
            ConfigError: the template cannot be read, does not show the question and what the context needs, or has
                a turn that the chat template leaves out.
        """
        self._tokenizer = tokenizer
        self.teacher_settings = teacher
        self._chat = ChatEncoder(tokenizer, special_tokens=special_tokens, stop_tokens=stop_tokens)
        self.shown = SHOWN[teacher.context]  # the fields of an example that the teacher sees
        self._template = TeacherTemplate(teacher) if self.shown else None
        if self._template and (role := self._chat.dropped(self._template.roles)):
            problem = f"the chat template of {tokenizer.name_or_path} leaves out its turn of the {role}"
            remedy = "choose single_turn, or replace the chat template by model.chat_template"
            raise ConfigError("teacher.template", self._template.label, problem, remedy)

    @property
    def end_of_turn(self) -> int:
        """The token with which every demonstration ends."""
        return self._chat.end_of_turn

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the chat template."""
        if not self._chat.opened:
            return ()
        return (f"the chat template ends prompts with {self._chat.opened!r}: demonstrations close that block, empty",)

    def check_system(self, key: str, system: str) -> None:
        """Refuses a system message that the chat template would leave out without a word.

        Raises:
            ConfigError: names `key`.
        """
        if system and self._chat.dropped(("system", "user")):
            problem = f"the chat template of {self._tokenizer.name_or_path} leaves out system messages"
            raise ConfigError(key, system, problem, "write it into the prompts, or set another model.chat_template")

    def student(self, example: Example) -> tuple[int, ...]:
        """The prompt the student answers, up to where its turn begins.

        Raises:
            ModelError: the chat template cannot render it as it stands; names the example.
        """
        try:
            return self._chat.prompt(example.prompt)
        except ModelError as error:
            raise ModelError(f"example {example.example_id!r}: {error}") from error

    def teacher(self, example: Example) -> tuple[int, ...]:
        """The same conversation with the teacher's context in it; under NONE the student prompt itself.

        Raises:
            ValueError: the example lacks what the context shows; ask `lacking` first.
        """
        if missing := self.lacking(example):
            raise ValueError(f"example {example.example_id!r} has no {missing}")
        if self._template is None:
            return self.student(example)
        return self._chat.prompt((*example.prompt[:-1], *self._render(self._template, example)))

    def demonstration(self, example: Example) -> tuple[int, ...]:
        """The demonstration as the student would write it behind its prompt, up to the token that ends its turn.

        Raises:
            ModelError: the chat template does not show it behind the prompt; names the example.
        """
        try:
            return self._chat.completion(example.prompt, example.demonstration)
        except ModelError as error:
            raise ModelError(f"example {example.example_id!r}: {error}") from error

    @property
    def start_of_text(self) -> int:
        """What a text without a prompt is predicted from: BOS, or the token that ended the text before it."""
        bos = self._tokenizer.bos_token_id
        return int(bos if bos is not None else self._tokenizer.eos_token_id)

    def text(self, example: Example) -> tuple[int, ...]:
        """The article as raw text, with the token that ends a text, without BOS."""
        return (*self._chat.text(example.text), self._tokenizer.eos_token_id)

    def check_context(self, example: Example, source: str, line: int) -> None:
        """Refuses an example that lacks what the teacher's context shows.

        Raises:
            DataError: with the place of the example in its source.
            ConfigError: the teacher's template fails on it.
        """
        if missing := self.lacking(example):
            problem = f"example {example.example_id!r} has no {missing}, which teacher.context shows"
            raise DataError(source, line, problem, f"fill {missing} (data.columns), or change teacher.context")
        if self._template is None:
            return
        if len(self.demonstrations(example)) > 1 and not self._template.shows_several:
            problem = (
                f"example {example.example_id!r} has several demonstrations, teacher.template shows the first only"
            )
            raise DataError(source, line, problem, SHOW_ALL)
        if self._template.asks_fields:
            try:
                self._render(self._template, example)
            except LackingField as error:
                field = f"context.{error.args[0]}"
                problem = f"example {example.example_id!r} has no {field}, for which teacher.template asks"
                remedy = f"fill it, or let the template do without: {{% if {field} is defined %}}"
                raise DataError(source, line, problem, remedy) from error

    def demonstrations(self, example: Example) -> tuple[Demonstration, ...]:
        """All that the teacher is shown with an example: its own first, then the pool's, nearest first."""
        if "demonstration" not in self.shown:
            return ()
        question, of_teacher = example.prompt[-1].content, self.teacher_settings.demonstrations
        own = (example.demonstration, *example.further_demonstrations)
        shown = [
            Demonstration(text, question) for text in own if text.strip() and of_teacher is not DemonstrationSource.POOL
        ]
        if of_teacher is not DemonstrationSource.OWN:
            shown += [Demonstration(hit.demonstration, question_of(hit)) for hit, _ in example.pool_hits]
        return tuple(shown)

    def _render(self, template: TeacherTemplate, example: Example) -> tuple[Message, ...]:
        return template.render(
            question=example.prompt[-1].content,
            demonstrations=self.demonstrations(example),
            text=example.text if "text" in self.shown else "",
            context=example.context,
        )

    def lacking(self, example: Example) -> str:
        """The field the teacher's context shows but the example leaves empty; "" where nothing is lacking."""
        for field in self.shown:
            filled = self.demonstrations(example) if field == "demonstration" else getattr(example, field).strip()
            if not filled:
                return field
        return ""
