"""The student prompt, the teacher prompt and the demonstration of an example, as token ids.

The teacher prompt is the student's with its last turn replaced by turns that also hold the demonstration. All three
come from one chat template, so student and teacher differ in nothing but the context.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from sdft_ray.config import TeacherConfig
from sdft_ray.data.chat import ChatEncoder
from sdft_ray.data.encoding import Encoding, TextEncoder, Tokens
from sdft_ray.data.teacher_template import SHOWN, TeacherTemplate
from sdft_ray.errors import ConfigError, DataError, ModelError
from sdft_ray.records import Example

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
        self._teacher = teacher
        self._special_tokens = special_tokens
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

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that decide what is made of an example, besides the tokenizer."""
        teacher = {key: value for key, value in asdict(self._teacher).items() if key not in SCORING}
        return {"teacher": teacher, "special_tokens": self._special_tokens, "end_of_turn": self.end_of_turn}

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
            return (yield from self._chat.prompt_encoding(example.prompt))
        except ModelError as error:
            raise ModelError(f"example {example.example_id!r}: {error}") from error

    def teacher_encoding(self, example: Example) -> Encoding[Tokens]:
        """The same conversation with the teacher's context in it; under NONE the student prompt itself.

        Raises:
            ValueError: the example lacks what the context shows; ask `lacking` first.
        """
        if missing := self.lacking(example):
            raise ValueError(f"example {example.example_id!r} has no {missing}")
        if self._template is None:
            return (yield from self.student_encoding(example))
        turns = self._template.render(
            question=example.prompt[-1].content,
            demonstration=example.demonstration if "demonstration" in self.shown else "",
            text=example.text if "text" in self.shown else "",
        )
        return (yield from self._chat.prompt_encoding((*example.prompt[:-1], *turns)))

    def demonstration_encoding(self, example: Example) -> Encoding[Tokens]:
        """The demonstration as the student would write it behind its prompt, up to the token that ends its turn.

        Raises:
            ModelError: the chat template does not show it behind the prompt; names the example.
        """
        try:
            return (yield from self._chat.completion_encoding(example.prompt, example.demonstration))
        except ModelError as error:
            raise ModelError(f"example {example.example_id!r}: {error}") from error

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
        """Refuses an example that lacks what the teacher's context shows.

        Raises:
            DataError: with the place of the example in its source.
        """
        if missing := self.lacking(example):
            problem = f"example {example.example_id!r} has no {missing}, which teacher.context shows"
            raise DataError(source, line, problem, f"fill {missing} (data.columns), or change teacher.context")

    def lacking(self, example: Example) -> str:
        """The field the teacher's context shows but the example leaves empty; "" where nothing is lacking."""
        return next((field for field in self.shown if not getattr(example, field).strip()), "")
