"""What lm-evaluation-harness asks of a model, in text, answered by rollout workers, which know token ids only.

Text becomes token ids as in the harness's own adapter of transformers models, or the figures would not compare.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from sdft_ray.errors import ConfigError

PIECE_TOKENS = 64  # a completion is made in pieces: stop strings are looked for in text, of which workers know nothing


class Respondent(Protocol):
    """Who is asked: the pool of rollout workers."""

    async def load_weights(self, version: int) -> None:
        """Returns when it answers with the student's weights of `version`."""
        ...

    async def answer(self, prompt_tokens: Sequence[int], max_new_tokens: int) -> tuple[int, ...]:
        """The greedy completion of a prompt."""
        ...

    async def likelihood(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, bool]:
        """Logprob [nats] of a given completion, and whether it is the greedy one."""
        ...


class Student:
    """The student as a function of text."""

    def __init__(
        self,
        respondent: Respondent,
        *,
        tokenizer: Any,
        eos_token_ids: Sequence[int],
        max_tokens: int,
        max_open: int,
    ):
        """Asks nothing yet.

        Args:
            respondent: who answers.
            tokenizer: of transformers.
            eos_token_ids: each ends a completion.
            max_tokens: of a prompt with its completion; of a longer one the end is read.
            max_open: questions asked at once.
        """
        self._respondent = respondent
        self._tokenizer = tokenizer
        self._eos_token_ids = frozenset(eos_token_ids)
        self.max_tokens = max_tokens
        self._open = asyncio.Semaphore(max_open)

    async def load_weights(self, version: int) -> None:
        """Returns when the student's weights of `version` answer."""
        await self._respondent.load_weights(version)

    @property
    def prefix_token(self) -> int:
        """What stands before a text that nothing stands before."""
        bos: int | None = self._tokenizer.bos_token_id
        eos: int = self._tokenizer.eos_token_id
        return eos if bos is None else bos

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids, with those special ones in front that the tokenizer adds; never a second BOS."""
        bos = self._tokenizer.bos_token
        has_bos = bool(bos) and text.startswith(bos)
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=special and not has_bos)
        return tokens

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of both, split where the context alone would end.

        Both are encoded as one text: a boundary between words belongs to the token behind it, and so does the space
        at the end of a context.
        """
        stripped = context.rstrip()
        if not stripped:
            tokens = self.encode(context + continuation, special=False)
            # A continuation that begins with the prefix brings its own.
            return (tokens[:1], tokens[1:]) if tokens[:1] == [self.prefix_token] else ([self.prefix_token], tokens)
        whole = self.encode(context + continuation)
        num_context = len(self.encode(stripped))
        return whole[:num_context], whole[num_context:]

    async def likelihood(self, context: str, continuation: str) -> tuple[float, bool]:
        """Logprob [nats] of the continuation, and whether greedy decoding would give it."""
        return await self.token_likelihood(*self.encode_pair(context, continuation))

    async def token_likelihood(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        """As `likelihood`, of token ids."""
        if not continuation:
            return 0.0, True
        kept = list(continuation)[-(self.max_tokens - 1) :]  # one token of context at least
        room = self.max_tokens - len(kept)
        async with self._open:
            return await self._respondent.likelihood(list(context)[-room:], kept)

    async def complete(self, context: str, *, until: Sequence[str], max_new_tokens: int) -> str:
        """The greedy completion up to the first stop string, which is not in it.

        Raises:
            ConfigError: the completion alone would take all the tokens there are.
        """
        room = self.max_tokens - max_new_tokens
        if room < 1:
            raise ConfigError(
                "harness.max_tokens",
                self.max_tokens,
                f"leaves no room for a prompt beside a completion of {max_new_tokens} tokens",
                "raise it, take a model that reads more, or leave the task out of harness.tasks",
            )
        prompt = (self.encode(context) or [self.prefix_token])[-room:]
        stops = [stop for stop in until if stop]
        tokens: list[int] = []
        text = ""
        async with self._open:
            while len(tokens) < max_new_tokens and not any(stop in text for stop in stops):
                # The workers' prefix cache holds what has been read before.
                piece = await self._respondent.answer(prompt + tokens, min(PIECE_TOKENS, max_new_tokens - len(tokens)))
                tokens.extend(piece)
                text = self._tokenizer.decode(tokens, skip_special_tokens=True)
                if tokens[-1] in self._eos_token_ids:
                    break
        return min((text.partition(stop)[0] for stop in stops), key=len, default=text)
