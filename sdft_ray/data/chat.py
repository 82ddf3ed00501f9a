"""Conversations as token ids: what the model's own chat template makes of them, and nothing besides.

A completion is the template's rendering of the assistant's turn minus the rendering of the prompt. So it holds whatever
the template puts before an answer: an empty reasoning block, a channel, a header.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

import jinja2

from sdft_ray.data.encoding import Encoding, Piece, Pieces, TextEncoder, Tokens
from sdft_ray.errors import ModelError, first_line
from sdft_ray.records import Message

# What a Jinja template can raise while it renders: its own faults, and those of the expressions in it.
TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    RecursionError,
    MemoryError,
)

_BLOCK = re.compile(r"\s*(?P<open>[<\[])(?P<name>\w+)(?P<close>[>\]])\s*")
_TAIL_LENGTH = 40  # characters of a rendering that a message quotes
_PRIVATE_USE = range(0xE000, 0xF900)  # characters that no template and hardly a text holds


class ChatEncoder:
    """Encodes prompts and completions with one tokenizer and its chat template."""

    def __init__(self, tokenizer: Any, *, special_tokens: bool = False, stop_tokens: Collection[int] = ()):
        """Renders a short conversation once, to learn how the template opens and closes the assistant's turn.

        Args:
            tokenizer: a transformers tokenizer with a chat template.
            special_tokens: whether a special token's text inside a message becomes that token; else it stays text.
            stop_tokens: ids at which the sampler ends a completion, besides the tokenizer's end of sequence.

        Raises:
            ModelError: the tokenizer has no chat template or no end-of-sequence token.
        """
        self._tokenizer = tokenizer
        self.encoder = TextEncoder(tokenizer)
        self._name = tokenizer.name_or_path
        if not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {self._name} has no chat template; set model.chat_template, "
                "or take the instruct version of the model."
            )
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"the tokenizer of {self._name} has no end-of-sequence token, so no completion "
                "could end; set eos_token in its tokenizer_config.json."
            )
        texts = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._special = sorted(texts, key=len, reverse=True)  # the longest match counts, as in the tokenizer
        self._control = re.compile(f"({'|'.join(map(re.escape, self._special)) or '(?!)'})")
        self._special_is_text = not special_tokens
        self._dropped: dict[tuple[str, ...], str] = {}
        self._learn_turn({tokenizer.eos_token_id, *stop_tokens})

    def prompt(self, messages: Sequence[Message]) -> Tokens:
        """Runs `prompt_encoding` alone."""
        return self.encoder.run(self.prompt_encoding(messages))

    def completion(self, messages: Sequence[Message], answer: str) -> Tokens:
        """Runs `completion_encoding` alone."""
        return self.encoder.run(self.completion_encoding(messages, answer))

    def prompt_encoding(self, messages: Sequence[Message]) -> Encoding[Tokens]:
        """The conversation up to where the assistant's turn begins.

        Raises:
            ModelError: the template cannot render it, leaves out one of its turns, or writes BOS twice.
        """
        if role := self.dropped(tuple(message.role for message in messages)):
            raise ModelError(
                f"the chat template of {self._name} leaves out a turn of the {role}; remove such turns from the data, "
                "or replace the template by model.chat_template."
            )
        guarded, mark = self._guard(messages)
        tokens = yield self._pieces(self._render(guarded, add_generation_prompt=True), mark)
        bos = self._tokenizer.bos_token_id
        if bos is not None and tokens[:2] == (bos, bos):
            raise ModelError(
                f"prompts of {self._name} begin with two BOS tokens ({bos}); remove one "
                "from the chat template, for example by model.chat_template."
            )
        return tokens

    def completion_encoding(self, messages: Sequence[Message], answer: str) -> Encoding[Tokens]:
        """What the assistant writes behind `prompt(messages)` to give `answer`, up to the token that ends its turn.

        The difference is taken in text, since a token may span the border. Its tokens are those it has behind the
        prompt. Where a token would span the border it is encoded alone, because the sampler starts at the border.

        Raises:
            ModelError: the template's turn does not go on where its prompt ends, or lacks a part of the answer.
        """
        guarded, mark = self._guard((*messages, Message(role="assistant", content=answer)))
        prompt = self._render(guarded[:-1], add_generation_prompt=True)
        text = self._continue(prompt, self._render(guarded, add_generation_prompt=False), guarded[-1].content)
        if "".join(guarded[-1].content.split()) not in "".join((self.opened + text).split()):
            raise ModelError(
                f"the chat template of {self._name} leaves out a part of the answer {answer[:_TAIL_LENGTH]!r}; "
                "mend the answer, or replace the template by model.chat_template."
            )
        before = yield self._pieces(prompt, mark)
        both = yield self._pieces(prompt + text, mark)
        tokens = both[len(before) :] if both[: len(before)] == before else (yield self._pieces(text, mark))
        if self.closes_turn and self.end_of_turn in tokens:
            return tokens[: len(tokens) - tokens[::-1].index(self.end_of_turn)]
        return (*tokens, self.end_of_turn)

    def text_encoding(self, text: str) -> Encoding[Tokens]:
        """A text outside any conversation, without BOS and end."""
        return (yield (Piece(text, self._special_is_text and self._control.search(text) is not None),))

    def dropped(self, roles: tuple[str, ...]) -> str:
        """The role of the first turn that the template does not show in a conversation of `roles`; "" if none."""
        if roles not in self._dropped:
            marked = [Message(role=role, content=f"qz{index}zq") for index, role in enumerate(roles)]
            rendered = self._render(marked, add_generation_prompt=True)
            self._dropped[roles] = next((turn.role for turn in marked if turn.content not in rendered), "")
        return self._dropped[roles]

    def _learn_turn(self, stops: set[int]) -> None:
        """How the template opens and closes the assistant's turn.

        Of several tokens that close a turn the first counts at which the sampler stops, else the first. A turn that
        no token closes ends with the end-of-sequence token.
        """
        question, answer = Message(role="user", content="A question."), Message(role="assistant", content="An answer.")
        prompt = self._render([question], add_generation_prompt=True)
        head, found, tail = self._render([question, answer], add_generation_prompt=False).rpartition(answer.content)
        added = self._tokenizer.added_tokens_decoder
        closing = [token for token in self.encoder.encode((Piece(tail),)) if token in added] if found else []
        self.closes_turn = bool(closing)
        self.end_of_turn = int(
            next(
                (token for token in closing if token in stops), closing[0] if closing else self._tokenizer.eos_token_id
            )
        )
        self._tail = tail
        # What the prompt opens and the turn does not repeat, such as "<think>\n".
        self.opened = prompt.removeprefix(head) if found and prompt.startswith(head) else ""

    def _continue(self, prompt: str, conversation: str, answer: str) -> str:
        """The text of `conversation` behind `prompt`, without what follows a turn that no token closes.

        Some prompts open a reasoning block that the template's own turns do not have. The model closes such a block
        before it answers, and so does the completion: empty, unless the answer begins with a block of its own.
        """
        if conversation.startswith(prompt):
            text = conversation[len(prompt) :]
            return text if self.closes_turn else text.removesuffix(self._tail)
        block = _BLOCK.fullmatch(self.opened)
        if block and prompt.endswith(self.opened):
            start = self.opened.strip()
            turn = conversation[len(prompt) - len(self.opened) :]
            if answer.lstrip().startswith(start):
                turn = start + self.opened[self.opened.index(start) + len(start) :]
                turn += answer.lstrip().removeprefix(start).lstrip("\n") + self._tail
            else:
                turn = f"{start}\n\n{block['open']}/{block['name']}{block['close']}\n\n{turn}"
            if turn.startswith(self.opened):
                return turn.removeprefix(self.opened)
        raise ModelError(
            f"the chat template of {self._name} ends a prompt with {prompt[-_TAIL_LENGTH:]!r}, but an answered one has "
            f"{conversation[max(0, len(prompt) - _TAIL_LENGTH) :][:_TAIL_LENGTH]!r} there, so an answer does not go on "
            "where a prompt ends; set model.chat_template to one that renders both alike."
        )

    def _guard(self, messages: Sequence[Message]) -> tuple[list[Message], str]:
        """The messages with a placeholder for every special token's text in them, and the mark of placeholders.

        The mark is "" where there is none: nearly always.

        Raises:
            ModelError: the messages hold every character that could be a mark.
        """
        contents = "".join(message.content for message in messages)
        if not (self._special_is_text and self._control.search(contents)):
            return list(messages), ""
        mark = next((chr(code) for code in _PRIVATE_USE if chr(code) not in contents), "")
        if not mark:
            raise ModelError(
                "the messages hold a special token's text and every private-use character (U+E000 to U+F8FF), so no "
                "character is left to mark that text with; remove these characters, or set data.special_tokens=true."
            )

        def placeholder(found: re.Match[str]) -> str:
            return f"{mark}{self._special.index(found[0])}{mark}"

        guarded = [
            Message(role=message.role, content=self._control.sub(placeholder, message.content)) for message in messages
        ]
        return guarded, mark

    def _pieces(self, rendered: str, mark: str) -> Pieces:
        """A rendering as it is encoded; its placeholders become the texts that must not become special tokens.

        Between two special tokens of the template a tokenizer reads a stretch of text by itself. So a stretch with a
        placeholder is encoded by itself, as text, and everything else as ever: no merge is lost. Only a tokenizer that
        begins every text with a space puts one before such a stretch.
        """
        if not mark:
            return (Piece(rendered),)
        pieces: list[Piece] = []
        usual = ""
        for stretch in self._control.split(rendered):
            if mark not in stretch:
                usual += stretch
                continue
            text = re.sub(f"{mark}(\\d+){mark}", lambda found: self._special[int(found[1])], stretch)
            pieces += (Piece(usual), Piece(text, is_literal=True))
            usual = ""
        return (*pieces, Piece(usual))

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            # The template writes BOS where the model wants one, so encoding adds none.
            text: str = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except TEMPLATE_FAULTS as error:
            roles = ", ".join(message.role for message in messages)
            raise ModelError(
                f"the chat template of {self._name} cannot render turns of {roles} ({first_line(error)}); "
                "change data.system or teacher.template, or replace it by model.chat_template."
            ) from error
        return text
