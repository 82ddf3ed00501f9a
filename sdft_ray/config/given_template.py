"""Where a chat template has come from, for the messages about it: a module below both data and models, which say it."""

from typing import Any


class GivenTemplate(str):
    """A chat template that a setting has brought, which messages about it name."""

    origin: str

    def __new__(cls, text: str, origin: str = "") -> "GivenTemplate":
        """The text with the setting's value."""
        made = super().__new__(cls, text)
        made.origin = origin
        return made


def template_name(tokenizer: Any) -> str:
    """What messages call the chat template of a tokenizer: the setting that brought it, else where both came from."""
    template = tokenizer.chat_template
    return template.origin if isinstance(template, GivenTemplate) else str(tokenizer.name_or_path)
