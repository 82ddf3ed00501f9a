"""A person sees what the model reads: which text is a token of its own, and every character that hides."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sdft_ray.preview.spans import Kind, Span, SpanDecoder, visible_spans
from tests.tiny import END, START, make_tiny_tokenizer


def seen(text: str) -> str:
    return "".join(span.text for span in visible_spans(text))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one two", "one two"),
        ("one\ntwo\n", "one↵\ntwo↵\n"),
        ("  one  two ", "··one··two·"),
        (" \n one", "·↵\n·one"),
        ("a\tb", "a→b"),
        ("no\u00a0break\u200b", "no<U+00A0>break<U+200B>"),
        ("\r\n", "<U+000D>↵\n"),
        ("Größe, 世界 \N{PILE OF POO}!", "Größe, 世界 \N{PILE OF POO}!"),
        ("bell\x07 and\u2028line", "bell<U+0007> and<U+2028>line"),
        ("", ""),
    ],
)
def test_hidden_characters_have_marks_and_plain_spaces_have_none(text: str, shown: str) -> None:
    assert seen(text) == shown


def test_marks_are_told_from_text_that_looks_alike() -> None:
    assert list(visible_spans("a·b\t")) == [Span("a·b", Kind.TEXT), Span("→", Kind.MARK)]


def test_a_special_token_is_told_from_its_text() -> None:
    tokenizer = make_tiny_tokenizer()
    real = tokenizer.encode(f"{START}user\n", add_special_tokens=False)
    text = tokenizer.encode(f"say {END}", add_special_tokens=False, split_special_tokens=True)
    spans = SpanDecoder(tokenizer).spans((*real, *text, tokenizer.eos_token_id))
    assert spans == (
        Span(START, Kind.TOKEN),
        Span("user", Kind.TEXT),
        Span("↵\n", Kind.MARK),
        Span(f"say {END}", Kind.TEXT),
        Span(END, Kind.TOKEN),
    )


def test_characters_of_several_tokens_are_whole() -> None:
    tokenizer = make_tiny_tokenizer()
    tokens = tokenizer.encode("世界 ü", add_special_tokens=False)
    assert len(tokens) > 6
    assert SpanDecoder(tokenizer).spans(tokens) == (Span("世界 ü", Kind.TEXT),)


def test_a_space_behind_a_special_token_is_seen_where_a_decoder_would_drop_it() -> None:
    core = Tokenizer(models.WordLevel({"<s>": 0, "\u2581a": 1, "<unk>": 2}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", unk_token="<unk>")
    assert tokenizer.decode([1]) == "a"
    spans = SpanDecoder(tokenizer).spans([0, 1, 1])
    assert "".join(span.text for span in spans) == "<s>·a a"
