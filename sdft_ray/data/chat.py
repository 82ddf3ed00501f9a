"""Conversations as token ids: what the model's own chat template makes of them, and nothing besides.

A completion is the template's rendering of the assistant's turn minus the rendering of the prompt. So it holds whatever
the template puts before an answer: an empty reasoning block, a channel, a header.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sdft_ray.conversation import Message, last_of, texts_of
from sdft_ray.data.chat_template import ChatTemplate
from sdft_ray.data.encoding import Encoding, Piece, Pieces, TextEncoder, Tokens
from sdft_ray.errors import ModelError

_BLOCK = re.compile(r"\s*(?P<open>[<\[])(?P<name>\w+)(?P<close>[>\]])\s*")
_TAIL_LENGTH = 40  # characters of a rendering that a message quotes
_PRIVATE_USE = range(0xE000, 0xF900)  # characters that no template and hardly a text holds


class ChatEncoder:
    """Encodes prompts and completions with one tokenizer and its chat template."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        special_tokens: bool = False,
        stop_tokens: Collection[int] = (),
        switches: Mapping[str, Any] | None = None,
        switches_key: str = "model.template_switches",
    ):
        """Renders a short conversation once, to learn how the template opens and closes the assistant's turn.

        Args:
            tokenizer: a transformers tokenizer with a chat template.
            special_tokens: whether a special token's text inside a message becomes that token; else it stays text.
            stop_tokens: ids at which the sampler ends a completion, besides the tokenizer's end of sequence.
            switches: values of the template's own variables.
            switches_key: the setting they come from.

        Raises:
            ModelError: the tokenizer has no chat template or no end-of-sequence token.
            ConfigError: the template never reads one of the switches.
        """
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer, switches or {}, switches_key)
        self.encoder = TextEncoder(tokenizer)
        self.name, self.template_name = tokenizer.name_or_path, self._template.name
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"the tokenizer of {self.name} has no end-of-sequence token, so no completion "
                "could end; set eos_token in its tokenizer_config.json."
            )
        texts = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._special = sorted(texts, key=len, reverse=True)  # the longest match counts, as in the tokenizer
        self._control = re.compile(f"({'|'.join(map(re.escape, self._special)) or '(?!)'})")
        self._special_is_text = not special_tokens
        self._stops = {tokenizer.eos_token_id, *stop_tokens}
        self._learn_turn()

    def prompt(self, messages: Sequence[Message], tools: str = "") -> Tokens:
        """Runs `prompt_encoding` alone."""
        return self.encoder.run(self.prompt_encoding(messages, tools))

    def completion(self, messages: Sequence[Message], answer: Message, tools: str = "") -> Tokens:
        """Runs `completion_encoding` alone."""
        return self.encoder.run(self.completion_encoding(messages, answer, tools))

    def prompt_encoding(self, messages: Sequence[Message], tools: str = "") -> Encoding[Tokens]:
        """The conversation up to where the assistant's turn begins.

        Args:
            messages: its turns.
            tools: JSON text of a list of schemas; "" shows none.

        Raises:
            ModelError: the template cannot render it, leaves out a part of it, or writes BOS twice.
        """
        self._check_shown(messages, tools)
        guarded, guarded_tools, mark = self._guard(messages, tools)
        tokens = yield self._pieces(self._render(guarded, guarded_tools, add_generation_prompt=True), mark)
        bos = self._tokenizer.bos_token_id
        if bos is not None and tokens[:2] == (bos, bos):
            raise ModelError(
                f"prompts of {self.name} begin with two BOS tokens ({bos}); remove one "
                "from the chat template, for example by model.chat_template."
            )
        return tokens

    def completion_encoding(self, messages: Sequence[Message], answer: Message, tools: str = "") -> Encoding[Tokens]:
        """What the assistant writes behind `prompt(messages, tools)` to give `answer`, up to the token that ends it.

        The difference is taken in text, since a token may span the border. Its tokens are those it has behind the
        prompt. Where a token would span the border it is encoded alone, because the sampler starts at the border.

        Raises:
            ModelError: the template's turn does not go on where its prompt ends, or lacks a part of the answer.
        """
        if answer.tool_calls:
            self._check_shown((*messages, answer), tools)
        guarded, guarded_tools, mark = self._guard((*messages, answer), tools)
        prompt = self._render(guarded[:-1], guarded_tools, add_generation_prompt=True)
        text = self._turn(prompt, guarded, guarded_tools)
        if "".join(guarded[-1].content.split()) not in "".join((self.opened + text).split()):
            raise ModelError(
                f"the chat template of {self.template_name} leaves out a part of the answer "
                f"{answer.content[:_TAIL_LENGTH]!r}; mend the answer, or replace the template by model.chat_template."
            )
        before = yield self._pieces(prompt, mark)
        both = yield self._pieces(prompt + text, mark)
        tokens = both[len(before) :] if both[: len(before)] == before else (yield self._pieces(text, mark))
        if self.closes_turn and self.end_of_turn in tokens:
            return tokens[: len(tokens) - tokens[::-1].index(self.end_of_turn)]
        # A turn that calls tools may have an end of its own, at which the sampler stops as well.
        ends = (index for index, token in enumerate(tokens) if token in self._stops)
        own_end = next(ends, None) if answer.tool_calls else None
        return (*tokens, self.end_of_turn) if own_end is None else tokens[: own_end + 1]

    def written(self, messages: Sequence[Message], answer: Message, tools: str = "") -> str:
        """The text of a turn that calls tools, as the template writes it behind a prompt, without its end.

        What the template puts before every answer, such as an empty reasoning block, is no part of it.
        """
        text = self._turn(self._render(messages, tools, add_generation_prompt=True), (*messages, answer), tools)
        question, plain = Message(role="user", content="A question."), Message(role="assistant", content="An answer.")
        prompt = self._render([question], add_generation_prompt=True)
        head = self._turn(prompt, (question, plain)).partition(plain.content)[0]
        ends = [self._tokenizer.decode([token]) for token in (self.end_of_turn, *sorted(self._stops))]
        return re.split("|".join(map(re.escape, ends)), text.removeprefix(head))[0].strip()

    def tail(self, messages: Sequence[Message], tools: str = "", *, role: str = "user") -> str:
        """The text of a prompt behind its last turn of a role.

        Raises:
            ModelError: the template leaves out the end of that turn.
        """
        last = last_of(role, messages)
        mark = self._free_mark(texts_of(messages, tools))
        marked = replace(messages[last], content=messages[last].content + mark)
        rendered = self._render([*messages[:last], marked, *messages[last + 1 :]], tools, add_generation_prompt=True)
        _, found, tail = rendered.rpartition(mark)
        if not found:
            raise ModelError(
                f"the chat template of {self.template_name} leaves out the end of a turn of the {role}; "
                "replace it by model.chat_template."
            )
        return tail

    def check_whole(self, messages: Sequence[Message], text: str, tools: str = "") -> None:
        """Refuses a conversation of which the template shows a text only in part, spaces aside.

        Raises:
            ModelError: it strips, for example, the reasoning of earlier turns.
        """
        rendered = self._render(messages, tools, add_generation_prompt=True)
        if "".join(text.split()) not in "".join(rendered.split()):
            raise ModelError(
                f"the chat template of {self.template_name} leaves out a part of {text[:_TAIL_LENGTH]!r} where that is "
                "an earlier turn, as reasoning often is; set teacher.template=single_turn, which shows it as text."
            )

    def text_encoding(self, text: str) -> Encoding[Tokens]:
        """A text outside any conversation, without BOS and end."""
        return (yield (Piece(text, self._special_is_text and self._control.search(text) is not None),))

    def left_out(self, messages: Sequence[Message], tools: str = "") -> str:
        """See `ChatTemplate.left_out`."""
        return self._template.left_out(messages, tools)

    def _check_shown(self, messages: Sequence[Message], tools: str) -> None:
        if lacking := self.left_out(messages, tools):
            raise ModelError(
                f"the chat template of {self.template_name} leaves out {lacking}; remove such parts from the data, "
                "or replace the template by model.chat_template."
            )

    def _learn_turn(self) -> None:
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
                (token for token in closing if token in self._stops),
                closing[0] if closing else self._tokenizer.eos_token_id,
            )
        )
        self._tail = tail
        # What the prompt opens and the turn does not repeat, such as "<think>\n".
        self.opened = prompt.removeprefix(head) if found and prompt.startswith(head) else ""

    def _turn(self, prompt: str, messages: Sequence[Message], tools: str = "") -> str:
        """The text of the last turn, the assistant's, behind the prompt that it answers."""
        return self._continue(prompt, self._render(messages, tools, add_generation_prompt=False), messages[-1].content)

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
            f"the chat template of {self.template_name} ends a prompt with {prompt[-_TAIL_LENGTH:]!r}, but an answered "
            f"one has {conversation[max(0, len(prompt) - _TAIL_LENGTH) :][:_TAIL_LENGTH]!r} there, so an answer does "
            "not go on where a prompt ends; set model.template_switches, or model.chat_template to one that renders "
            "both alike."
        )

    def _guard(self, messages: Sequence[Message], tools: str) -> tuple[Sequence[Message], str, str]:
        """Messages and tools with a placeholder for every special token's text in them, and the mark of placeholders.

        The mark is "" where there is none: nearly always.

        Raises:
            ModelError: the messages hold every character that could be a mark.
        """
        texts = texts_of(messages, tools)
        if not (self._special_is_text and self._control.search(texts)):
            return messages, tools, ""
        mark = self._free_mark(texts)

        def guarded(text: str) -> str:
            return self._control.sub(lambda found: f"{mark}{self._special.index(found[0])}{mark}", text)

        return [message.mapped(guarded) for message in messages], guarded(tools), mark

    @staticmethod
    def _free_mark(texts: str) -> str:
        """A character that no text holds. Raises `ModelError` where there is none."""
        mark = next((chr(code) for code in _PRIVATE_USE if chr(code) not in texts), "")
        if not mark:
            raise ModelError(
                "the messages hold a special token's text and every private-use character (U+E000 to U+F8FF), so no "
                "character is left to mark that text with; remove these characters, or set data.special_tokens=true."
            )
        return mark

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

    def _render(self, messages: Sequence[Message], tools: str = "", *, add_generation_prompt: bool) -> str:
        return self._template.render(messages, tools, add_generation_prompt=add_generation_prompt)
