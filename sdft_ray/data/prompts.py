"""The student prompt, the teacher prompt and the demonstration of an example, as token ids.

The teacher prompt is the student's with its last turn of the user replaced by turns that also hold the demonstration;
what tools have answered since then stays behind them. All three come from one chat template, so student and teacher
differ in nothing but the context, and in the switches of the teacher's own. A row may bring the teacher's conversation.
"""

from collections.abc import Collection, Mapping
from typing import Any

from sdft_ray.config import TeacherConfig
from sdft_ray.conversation import Message, last_of
from sdft_ray.data.chat import ChatEncoder
from sdft_ray.data.teacher_template import SHOWN, TeacherTemplate
from sdft_ray.errors import ConfigError, DataError, ModelError
from sdft_ray.records import Example


class PromptBuilder:
    """Turns examples into token ids."""

    def __init__(
        self,
        tokenizer: Any,
        teacher: TeacherConfig,
        *,
        switches: Mapping[str, Any] | None = None,
        special_tokens: bool = False,
        stop_tokens: Collection[int] = (),
    ):
        """Checks the tokenizer and the teacher's template once, before any example.

        Args:
            tokenizer: a transformers tokenizer with a chat template.
            teacher: its template, context and switches are used.
            switches: model.template_switches.
            special_tokens: data.special_tokens.
            stop_tokens: ids at which the sampler ends a completion, besides the tokenizer's end of sequence.

        Raises:
            ModelError: the tokenizer has no chat template or no end-of-sequence token.
            ConfigError: the template cannot be read, does not show the question and what the context needs, or has
                a turn that the chat template leaves out; or the chat template never reads a switch.
        """
        self._tokenizer = tokenizer
        self._compared: set[tuple[Any, ...]] = set()  # kinds of conversations, see `check_tails`
        self._switches = dict(switches or {})
        self._teacher_switches = dict(teacher.template_switches)
        self._chat = self._teacher_chat = ChatEncoder(
            tokenizer, special_tokens=special_tokens, stop_tokens=stop_tokens, switches=self._switches
        )
        if self._teacher_switches:
            self._teacher_chat = ChatEncoder(
                tokenizer,
                special_tokens=special_tokens,
                stop_tokens=stop_tokens,
                switches=self._switches | self._teacher_switches,
                switches_key="teacher.template_switches",
            )
        self.shown = SHOWN[teacher.context]  # the fields of an example that the teacher sees
        self._template = TeacherTemplate(teacher) if self.shown else None
        roles = self._template.roles if self._template else ()
        if (
            lacking := self._teacher_chat.left_out([Message(role=role, content="A.") for role in roles])
            if roles
            else ""
        ):
            assert self._template is not None
            problem = f"the chat template of {tokenizer.name_or_path} leaves out {lacking}"
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
        turns = (Message(role="system", content="A."), Message(role="user", content="A."))
        if system and self._chat.left_out(turns):
            problem = f"the chat template of {self._tokenizer.name_or_path} leaves out system messages"
            raise ConfigError(key, system, problem, "write it into the prompts, or set another model.chat_template")

    def student(self, example: Example) -> tuple[int, ...]:
        """The prompt the student answers, up to where its turn begins.

        Raises:
            ModelError: the chat template cannot render it as it stands; names the example.
        """
        try:
            return self._chat.prompt(example.prompt, example.tools)
        except ModelError as error:
            raise ModelError(f"example {example.example_id!r}: {error}") from error

    def teacher(self, example: Example) -> tuple[int, ...]:
        """The teacher's conversation; under NONE the student's own, as the teacher's switches render it.

        Raises:
            ValueError: the example lacks what the context shows; ask `lacking` first.
            ModelError: the chat template cannot render it as it stands; names the example.
        """
        turns = self.teacher_turns(example)
        try:
            is_turn = "demonstration" in self.shown and self._template and "assistant" in self._template.roles
            if is_turn and not example.teacher_messages:
                said = example.demonstration_turn.content if example.demonstration_turn else example.demonstration
                self._teacher_chat.check_whole(turns, said, example.tools)
            return self._teacher_chat.prompt(turns, example.tools)
        except ModelError as error:
            raise ModelError(f"example {example.example_id!r}, as the teacher reads it: {error}") from error

    def teacher_turns(self, example: Example) -> tuple[Message, ...]:
        """The turns that the teacher reads: the row's own, or the prompt with the template in place of the question.

        A turn of the template that is the demonstration and nothing else calls the tools that it calls.

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
        demonstration = self.demonstration_text(example) if "demonstration" in self.shown else ""
        turns = self._template.render(
            question=example.prompt[place].content,
            demonstration=demonstration,
            text=example.text if "text" in self.shown else "",
        )
        if turn := example.demonstration_turn:
            is_whole = {shown for shown in turns if shown.role == turn.role and shown.content == demonstration}
            turns = tuple(turn if shown in is_whole else shown for shown in turns)
        return (*example.prompt[:place], *turns, *example.prompt[place + 1 :])

    def demonstration_text(self, example: Example) -> str:
        """The demonstration as it stands in a turn of the user: calls of tools as the chat template writes them.

        Special tokens in it are text there, as in every message.
        """
        if example.demonstration_turn is None:
            return example.demonstration
        return self._chat.written(example.prompt, example.demonstration_turn, example.tools)

    def demonstration(self, example: Example) -> tuple[int, ...]:
        """The demonstration as the student would write it behind its prompt, up to the token that ends its turn.

        Raises:
            ModelError: the chat template does not show it behind the prompt; names the example.
        """
        answer = example.demonstration_turn or Message(role="assistant", content=example.demonstration)
        try:
            return self._chat.completion(example.prompt, answer, example.tools)
        except ModelError as error:
            raise ModelError(f"example {example.example_id!r}: {error}") from error

    def check_tails(self, example: Example) -> None:
        """Refuses prompts of student and teacher that end differently where nothing of the settings asks for it.

        Compared is the text behind the last turn of the user, where a wrong switch shows; behind the last turn where
        the teacher has a conversation of its own. The first example of each kind of conversation is looked at.

        Raises:
            ConfigError: shows both tails.
            ModelError: the chat template cannot render a prompt.
        """
        if self._template is None or self._teacher_switches:
            return
        own = example.teacher_messages
        kind = (len(own), bool(example.tools), *(turn.role for turn in (*own, *example.prompt)))
        role = example.prompt[-1].role if own else "user"
        if kind in self._compared or (own and own[-1].role != role):
            return  # a conversation of another kind may end in another way
        self._compared.add(kind)
        turns = self.teacher_turns(example)
        tail = self._chat.tail(example.prompt, example.tools, role=role)
        teachers = self._teacher_chat.tail(turns, example.tools, role=role)
        if tail != teachers:
            raise ConfigError(
                "teacher.template_switches",
                "{}",
                f"behind the last turn of the {role} the prompt of example {example.example_id!r} ends with {tail!r} "
                f"for the student and with {teachers!r} for the teacher, and no setting asks for a difference",
                "set model.template_switches to what makes both alike, or teacher.template_switches on purpose",
            )

    def check_mark(self, key: str, mark: str) -> None:
        """Refuses a mark behind which completions are read, where prompts hold it already and completions will not.

        Raises:
            ConfigError: names `key`.
        """
        if mark and mark in (tail := self._chat.tail((Message(role="user", content="A question."),))):
            problem = f"the chat template ends prompts with {tail!r}, so no completion will hold it"
            raise ConfigError(key, mark, problem, "leave it empty, or have model.template_switches turn thinking on")

    @property
    def start_of_text(self) -> int:
        """What a text without a prompt is predicted from: BOS, or the token that ended the text before it."""
        bos = self._tokenizer.bos_token_id
        return int(bos if bos is not None else self._tokenizer.eos_token_id)

    def text(self, example: Example) -> tuple[int, ...]:
        """The article as raw text, with the token that ends a text, without BOS."""
        return (*self._chat.text(example.text), self._tokenizer.eos_token_id)

    def check_context(self, example: Example, source: str, line: int) -> None:
        """Refuses an example that lacks what the teacher's context shows, and prompts as `check_tails` does.

        Raises:
            DataError: with the place of the example in its source.
            ConfigError, ModelError: as `check_tails`.
        """
        if missing := self.lacking(example):
            problem = f"example {example.example_id!r} has no {missing}, which teacher.context shows"
            raise DataError(source, line, problem, f"fill {missing} (data.columns), or change teacher.context")
        self.check_tails(example)

    def lacking(self, example: Example) -> str:
        """The field the teacher's context shows but the example leaves empty; "" where nothing is lacking."""
        if example.teacher_messages:
            return ""
        return next((field for field in self.shown if not getattr(example, field).strip()), "")
