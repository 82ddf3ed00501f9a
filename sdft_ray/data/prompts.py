"""The student prompt, the teacher prompt and the demonstration of an example, as token ids.

The teacher prompt is the student's with its last turn of the user replaced by turns that also hold the demonstration;
what tools have answered since then stays behind them. All three come from one chat template, so student and teacher
differ in nothing but the context, and in the switches of the teacher's own. A row may bring the teacher's conversation.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from sdft_ray.config import TeacherConfig
from sdft_ray.conversation import Message
from sdft_ray.data.chat import ChatEncoder
from sdft_ray.data.encoding import Encoding, TextEncoder, Tokens
from sdft_ray.data.teacher_turns import TeacherTurns
from sdft_ray.errors import ConfigError, ModelError
from sdft_ray.examples import Example

# Settings of the teacher that concern its weights and scores. Any other may change what it reads.
SCORING = (
    "backend",
    "weights",
    "path",
    "ema_decay",
    "payload",
    "payload_precision",
    "top_k",
    "tail",
    "max_tokens_per_forward",
    "gpu_memory_share",
    "kv_cache_gib",
)


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
        compares_tails: bool = True,
    ):
        """Checks the tokenizer and the teacher's template once, before any example.

        Args:
            tokenizer: a transformers tokenizer with a chat template.
            teacher: its template, context and switches are used.
            switches: model.template_switches.
            special_tokens: data.special_tokens.
            stop_tokens: ids at which the sampler ends a completion, besides the tokenizer's end of sequence.
            compares_tails: whether `check_tails` looks; False where a person does.

        Raises:
            ModelError: the tokenizer has no chat template or no end-of-sequence token.
            ConfigError: the template cannot be read, does not show the question and what the context needs, or has
                a turn that the chat template leaves out; or the chat template never reads a switch.
        """
        self._tokenizer = tokenizer
        self._special_tokens = special_tokens
        self._compares_tails = compares_tails
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
        self.turns = TeacherTurns(teacher, self._chat, self._teacher_chat)

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
            problem = f"the chat template of {self._chat.template_name} leaves out system messages"
            raise ConfigError(key, system, problem, "write it into the prompts, or set another model.chat_template")

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that decide what is made of an example, besides the tokenizer."""
        teacher = {key: value for key, value in asdict(self.turns.settings).items() if key not in SCORING}
        return {
            "teacher": teacher,
            "switches": self._switches,
            "special_tokens": self._special_tokens,
            "end_of_turn": self.end_of_turn,
            "compares_tails": self._compares_tails,
        }

    @property
    def tokenizer_digest(self) -> str:
        """Of the tokenizer and its chat template."""
        tokenizer = self._tokenizer
        core = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
        added = {token: str(content) for token, content in tokenizer.added_tokens_decoder.items()}
        parts = [type(tokenizer).__name__, tokenizer.chat_template, tokenizer.special_tokens_map, added, core]
        return hashlib.blake2b(json.dumps(parts, default=str).encode()).hexdigest()

    @property
    def encoder(self) -> TextEncoder:
        """What runs the encodings below, one or many at a time."""
        return self._chat.encoder

    def student(self, example: Example) -> Tokens:
        """Runs `student_encoding` alone."""
        return self.encoder.run(self.student_encoding(example))

    def teacher(self, example: Example) -> Tokens:
        """Runs `teacher_encoding` alone."""
        return self.encoder.run(self.teacher_encoding(example))

    def demonstration(self, example: Example) -> Tokens:
        """Runs `demonstration_encoding` alone."""
        return self.encoder.run(self.demonstration_encoding(example))

    def student_encoding(self, example: Example) -> Encoding[Tokens]:
        """The prompt the student answers, up to where its turn begins.

        Raises:
            ModelError: the chat template cannot render it as it stands; names the example.
        """
        try:
            return (yield from self._chat.prompt_encoding(example.prompt, example.tools))
        except ModelError as error:
            raise ModelError(f"example {example.example_id!r}: {error}") from error

    def teacher_encoding(self, example: Example) -> Encoding[Tokens]:
        """The teacher's conversation; under NONE the student's own, as the teacher's switches render it.

        Raises:
            ValueError: the example lacks what the context shows; ask `turns.lacking` first.
            ModelError: the chat template cannot render it as it stands; names the example.
        """
        turns = self.turns.of(example)
        try:
            for said in self.turns.said(example):
                self._teacher_chat.check_whole(turns, said, example.tools)
            return (yield from self._teacher_chat.prompt_encoding(turns, example.tools))
        except ModelError as error:
            raise ModelError(f"example {example.example_id!r}, as the teacher reads it: {error}") from error

    def demonstration_encoding(self, example: Example) -> Encoding[Tokens]:
        """The demonstration as the student would write it behind its prompt, up to the token that ends its turn.

        Raises:
            ModelError: the chat template does not show it behind the prompt; names the example.
        """
        answer = example.demonstration_turn or Message(role="assistant", content=example.demonstration)
        try:
            return (yield from self._chat.completion_encoding(example.prompt, answer, example.tools))
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
        if not self._compares_tails or not self.turns.shown or self._teacher_switches:
            return
        own = example.teacher_messages
        kind = (len(own), bool(example.tools), *(turn.role for turn in (*own, *example.prompt)))
        role = example.prompt[-1].role if own else "user"
        if kind in self._compared or (own and own[-1].role != role):
            return  # a conversation of another kind may end in another way
        self._compared.add(kind)
        turns = self.turns.of(example)
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

    def text_encoding(self, example: Example) -> Encoding[Tokens]:
        """The article as raw text, with the token that ends a text, without BOS."""
        tokens = yield from self._chat.text_encoding(example.text)
        return (*tokens, self._tokenizer.eos_token_id)

    def check_context(self, example: Example, source: str, line: int) -> None:
        """Refuses an example as `TeacherTurns.check`, and prompts as `check_tails` does.

        Raises:
            DataError, ConfigError, ModelError: as they do.
        """
        self.turns.check(example, source, line)
        self.check_tails(example)
