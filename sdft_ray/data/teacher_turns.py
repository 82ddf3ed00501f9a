"""The turns that the teacher reads with an example, and whether the example has what they show."""

from sdft_ray.config import DemonstrationSource, TeacherConfig
from sdft_ray.conversation import Message, last_of
from sdft_ray.data.chat import ChatEncoder
from sdft_ray.data.teacher_template import SHOW_ALL, SHOWN, Demonstration, LackingField, TeacherTemplate
from sdft_ray.errors import ConfigError, DataError
from sdft_ray.examples import Example


class TeacherTurns:
    """Makes the teacher's conversation of an example."""

    def __init__(self, teacher: TeacherConfig, chat: ChatEncoder, teacher_chat: ChatEncoder):
        """Checks the teacher's template once, before any example.

        Args:
            teacher: its context, template, and whose demonstrations it is shown.
            chat: of the student's prompts, which writes calls of tools.
            teacher_chat: of the teacher's prompts.

        Raises:
            ConfigError: the template cannot be read, does not show the question and what the context needs, or has
                a turn that the chat template leaves out.
        """
        self.settings = teacher
        self._chat = chat
        self.shown = SHOWN[teacher.context]  # the fields of an example that the teacher sees
        self._template = TeacherTemplate(teacher) if self.shown else None
        if self._template is None:
            return
        turns = [Message(role=role, content="A.") for role in self._template.roles]
        if lacking := teacher_chat.left_out(turns):
            problem = f"the chat template of {teacher_chat.template_name} leaves out {lacking}"
            remedy = "choose single_turn, or replace the chat template by model.chat_template"
            raise ConfigError("teacher.template", self._template.label, problem, remedy)

    def of(self, example: Example) -> tuple[Message, ...]:
        """The turns that the teacher reads: the row's own, or the prompt with the template in place of the question.

        A turn of the template that is a demonstration and nothing else calls the tools that it calls.

        Raises:
            ValueError: the example lacks what the context shows; ask `lacking` first.
        """
        if missing := self.lacking(example):
            raise ValueError(f"example {example.example_id!r} has no {missing}")
        if self._template is None:
            return example.prompt
        if example.teacher_messages:
            return example.teacher_messages
        place = last_of("user", example.prompt)
        turns = self._render(self._template, example)
        calls = self._calls(example)
        turns = tuple(calls.get(turn.content, turn) if turn.role == "assistant" else turn for turn in turns)
        return (*example.prompt[:place], *turns, *example.prompt[place + 1 :])

    @property
    def asks_fields(self) -> bool:
        """True when the template names fields of the row's context."""
        return self._template is not None and self._template.asks_fields

    def said(self, example: Example) -> list[str]:
        """The demonstrations as turns of the assistant say them: beside the tools that they call.

        () where the teacher has a conversation of its own, or the template no such turn.
        """
        if example.teacher_messages or self._template is None or "assistant" not in self._template.roles:
            return []
        calls = self._calls(example)
        return [calls[text].content if text in calls else text for text in self.demonstrations(example)]

    def _calls(self, example: Example) -> dict[str, Message]:
        """The turns that call tools, of the example and of what the pool gives it, by their text in a template."""
        rows = (example, *(hit for hit, _ in example.pool_hits))
        return {self.demonstration_text(row): turn for row in rows if (turn := row.demonstration_turn)}

    def demonstration_text(self, example: Example) -> str:
        """The demonstration as it stands in a turn of the user: calls of tools as the chat template writes them.

        Special tokens in it are text there, as in every message.
        """
        if example.demonstration_turn is None:
            return example.demonstration
        return self._chat.written(example.prompt, example.demonstration_turn, example.tools)

    def check(self, example: Example, source: str, line: int) -> None:
        """Refuses an example that lacks what the teacher's context or template shows.

        Raises:
            DataError: with the place of the example in its source.
            ConfigError: the template fails on it.
        """
        if missing := self.lacking(example):
            raise self._refusal(example, missing, source, line)
        if self._template is not None and not example.teacher_messages:
            self._check_template(self._template, example, source, line)

    def _refusal(self, example: Example, missing: str, source: str, line: int) -> DataError:
        if missing == "demonstration" and self.settings.shows_pool:
            has_own = self.settings.demonstrations is DemonstrationSource.OWN_AND_POOL
            problem = f"example {example.example_id!r} shares no word with a prompt of the pool"
            problem += " and has no demonstration of its own" if has_own else ""
            remedy = "give teacher.pool.source rows that are like it, or draw them by teacher.pool.retriever=RANDOM"
            return DataError(source, line, f"{problem}, so the teacher has nothing to show", remedy)
        problem = f"example {example.example_id!r} has no {missing}, which teacher.context shows"
        return DataError(source, line, problem, f"fill {missing} (data.columns), or change teacher.context")

    def _check_template(self, template: TeacherTemplate, example: Example, source: str, line: int) -> None:
        """Refuses an example that lacks a field the template asks for, or has a demonstration it does not show."""
        if len(self.demonstrations(example)) > 1 and not template.shows_several:
            problem = (
                f"example {example.example_id!r} has several demonstrations, teacher.template shows the first only"
            )
            raise DataError(source, line, problem, SHOW_ALL)
        if template.asks_fields:
            try:
                self._render(template, example)
            except LackingField as error:
                field = f"context.{error.args[0]}"
                problem = f"example {example.example_id!r} has no {field}, for which teacher.template asks"
                remedy = f"fill it, or let the template do without: {{% if {field} is defined %}}"
                raise DataError(source, line, problem, remedy) from error

    def demonstrations(self, example: Example) -> tuple[Demonstration, ...]:
        """All that the teacher is shown with an example: its own first, then the pool's, nearest first."""
        if "demonstration" not in self.shown:
            return ()
        question, of_teacher = example.question, self.settings.demonstrations
        own = (self.demonstration_text(example), *example.further_demonstrations)
        shown = [
            Demonstration(text, question) for text in own if text.strip() and of_teacher is not DemonstrationSource.POOL
        ]
        if of_teacher is not DemonstrationSource.OWN:
            shown += [
                Demonstration.answering(self.demonstration_text(hit), hit.conversation) for hit, _ in example.pool_hits
            ]
        return tuple(shown)

    def _render(self, template: TeacherTemplate, example: Example) -> tuple[Message, ...]:
        return template.render(
            question=example.question,
            demonstrations=self.demonstrations(example),
            text=example.text if "text" in self.shown else "",
            context=example.context,
        )

    def lacking(self, example: Example) -> str:
        """The field the teacher's context shows but the example leaves empty; "" where nothing is lacking."""
        if example.teacher_messages:
            return ""
        for field in self.shown:
            if not (self._has_demonstration(example) if field == "demonstration" else getattr(example, field).strip()):
                return field
        return ""

    def _has_demonstration(self, example: Example) -> bool:
        """True when the row or the pool gives one, whether or not the chat template can write it."""
        of_teacher = self.settings.demonstrations
        own = bool(example.demonstration.strip() or example.further_demonstrations)
        return (of_teacher is not DemonstrationSource.POOL and own) or (
            of_teacher is not DemonstrationSource.OWN and bool(example.pool_hits)
        )
