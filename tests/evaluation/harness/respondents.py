"""A model that can be computed by hand."""

from collections.abc import Sequence


class CharTokenizer:
    """One token a character; `<` is BOS, which it writes itself, and `>` EOS."""

    bos_token, bos_token_id = "<", ord("<")
    eos_token_id = ord(">")

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [self.bos_token_id] * add_special_tokens + [ord(letter) for letter in text]

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(token) for token in tokens if token not in (self.bos_token_id, self.eos_token_id))


class CountingRespondent:
    """Finds every token as likely as its place in the whole says, and a run of the same token greedy."""

    def __init__(self, completion: str = "") -> None:
        self.asked: list[tuple[list[int], list[int]]] = []
        self.loaded: list[int] = []
        self.lengths: list[int] = []
        self._completion = [ord(letter) for letter in completion]
        self._prompt_length: int | None = None

    async def load_weights(self, version: int) -> None:
        self.loaded.append(version)

    async def likelihood(self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]) -> tuple[float, bool]:
        self.asked.append((list(prompt_tokens), list(completion_tokens)))
        first = len(prompt_tokens)
        places = range(first, first + len(completion_tokens))
        return -float(sum(places)), all(token == prompt_tokens[-1] for token in completion_tokens)

    async def answer(self, prompt_tokens: Sequence[int], max_new_tokens: int) -> tuple[int, ...]:
        """Goes on with `completion` behind the first prompt it was given."""
        if self._prompt_length is None:
            self._prompt_length = len(prompt_tokens)
        made = len(prompt_tokens) - self._prompt_length
        self.asked.append((list(prompt_tokens), []))
        self.lengths.append(max_new_tokens)
        return tuple(self._completion[made : made + max_new_tokens])
