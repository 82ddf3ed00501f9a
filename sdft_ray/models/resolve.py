"""A model's name to a local folder, and whether the parts of that folder fit together."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from sdft_ray.config.given_template import template_name
from sdft_ray.errors import ModelError, first_line
from sdft_ray.models.embedded import EMBEDDED_MODEL, embedded_model
from sdft_ray.models.folder import CONFIG_FILE, load_tokenizer, read_config, read_generation_config

ADAPTER_FILE = "adapter_config.json"  # of a folder that holds an adapter, as peft names it


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What the roles have to know of a model before its weights are loaded."""

    vocab_size: int  # rows of the head
    num_tokens: int  # vocabulary entries the tokenizer has; rows from here on are padding and count on neither side
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]  # any of them ends a completion; the tokenizer's own first
    context_length: int  # tokens of prompt and completion together


def resolve_model(path: str, key: str = "model.path") -> str:
    """The local folder of the model that the setting `key` names: a folder, the embedded model, or one of the hub.

    Raises:
        ModelError: nothing of that name can be had.
    """
    if path == EMBEDDED_MODEL:
        return embedded_model()
    folder = Path(path).expanduser()
    if folder.is_dir():
        if (folder / ADAPTER_FILE).is_file():
            raise ModelError(
                f"{key}={path}: the folder holds an adapter and no model; merge it into its base first: with "
                "export.merged=true a run writes the merged model as well, to merged/ in its folder."
                if not (folder / CONFIG_FILE).is_file()
                # transformers loads the base that the adapter names, and vLLM what lies in the folder.
                else f"{key}={path}: the folder holds an adapter beside a model; move {ADAPTER_FILE} out of it if the "
                "weights there have been merged, or else merge the adapter first."
            )
        if not (folder / CONFIG_FILE).is_file():
            raise ModelError(f"{key}={path}: the folder has no config.json; give one that save_pretrained has written.")
        return str(folder.absolute())
    return _download(path, key)


def _download(path: str, key: str) -> str:
    from huggingface_hub import snapshot_download  # here: folders and the embedded model need no hub
    from huggingface_hub.errors import HFValidationError

    try:
        return snapshot_download(path, ignore_patterns=["*.gguf", "*.pth", "original/*"])
    except (OSError, HFValidationError) as error:  # every failure of the hub and the network is an OSError
        raise ModelError(
            f"{key}={path}: no such folder, and not found on the hub (offline?): {first_line(error)}; give a "
            f"model folder, a hub id, or {EMBEDDED_MODEL}, which needs no hub."
        ) from error


def check_model(folder: str, tokenizer: PreTrainedTokenizerBase, key: str = "model.path") -> ModelFacts:
    """Reads a model's facts; network, tokenizer and generation settings must not contradict each other.

    Raises:
        ModelError: tokens without a row in the head, no end of sequence, special tokens that disagree, or no
            chat template.
    """
    config = read_config(folder).get_text_config()  # of the language model, where the network has other parts, too
    num_tokens = max(tokenizer.get_vocab().values()) + 1
    if num_tokens > config.vocab_size:
        raise ModelError(
            f"{key}={folder}: the tokenizer has {num_tokens} tokens but the head only "
            f"{config.vocab_size} rows; use the tokenizer the model was saved with, or resize its "
            "embeddings and save it again."
        )
    if not tokenizer.chat_template:
        raise ModelError(
            f"{key}={folder}: the tokenizer has no chat template; set model.chat_template, or take the "
            "instruct version of the model."
        )
    bos, eos = _generation_tokens(folder, config)
    tokenizer_bos, tokenizer_eos = _token_id(tokenizer, "bos"), _token_id(tokenizer, "eos")
    if tokenizer_eos is None:
        raise ModelError(
            f"{key}={folder}: the tokenizer has no end-of-sequence token, so no completion could end; "
            "set eos_token in its tokenizer_config.json."
        )
    if eos and tokenizer_eos not in eos:
        raise ModelError(
            f"{key}={folder}: the tokenizer ends sequences with token {tokenizer_eos}, generation with "
            f"{list(eos)}; set eos_token_id in generation_config.json (or config.json) to hold "
            f"{tokenizer_eos}, too."
        )
    if None not in (bos, tokenizer_bos) and bos != tokenizer_bos:
        raise ModelError(
            f"{key}={folder}: sequences begin with token {tokenizer_bos} for the tokenizer and with "
            f"{bos} for the network; make bos_token_id of config.json and generation_config.json and "
            "bos_token of tokenizer_config.json agree."
        )
    return ModelFacts(
        vocab_size=config.vocab_size,
        num_tokens=num_tokens,
        bos_token_id=tokenizer_bos,
        eos_token_ids=(tokenizer_eos, *sorted(set(eos) - {tokenizer_eos})),
        context_length=config.max_position_embeddings,
    )


def with_stop_token(facts: ModelFacts, token: int, tokenizer: PreTrainedTokenizerBase) -> ModelFacts:
    """The facts with `token`, which ends every demonstration, among those that end a completion.

    Raises:
        ModelError: the sampler does not stop there and must not be told to, since the token is no special one.
    """
    if token in facts.eos_token_ids:
        return facts
    added = tokenizer.added_tokens_decoder.get(token)
    if added is None or not added.special:
        raise ModelError(
            f"the chat template of {template_name(tokenizer)} ends a turn with token {token} "
            f"({tokenizer.decode([token])!r}), but sampling stops at {list(facts.eos_token_ids)}, and {token} is no "
            "special token of the tokenizer; make it one, or replace the template by model.chat_template."
        )
    return replace(facts, eos_token_ids=(*facts.eos_token_ids, token))


def check_agreement(student: str, other: str, chat_template: str = "") -> None:
    """Refuses a second model (a teacher of its own) that would read the student's token ids differently.

    Args:
        student: folder of the student.
        other: folder of the second model.
        chat_template: `model.chat_template`, which replaces that of both.

    Raises:
        ModelError: lists everything in which the two differ.
    """
    mine, theirs = load_tokenizer(student, chat_template), load_tokenizer(other, chat_template)
    my_facts, their_facts = check_model(student, mine), check_model(other, theirs, "teacher.path")
    pairs = {
        "tokens of the tokenizer": (my_facts.num_tokens, their_facts.num_tokens),
        "rows of the head": (my_facts.vocab_size, their_facts.vocab_size),
        "BOS token": (my_facts.bos_token_id, their_facts.bos_token_id),
        "EOS tokens": (my_facts.eos_token_ids, their_facts.eos_token_ids),
    }
    differences = [f"{what}: {left} against {right}" for what, (left, right) in pairs.items() if left != right]
    if mine.chat_template != theirs.chat_template:
        differences.append("the chat template (model.chat_template would replace both)")
    left, right = mine.get_vocab(), theirs.get_vocab()
    moved = sorted(token for token in left.keys() | right.keys() if left.get(token) != right.get(token))
    if moved:
        differences.append(f"the ids of {len(moved)} tokens, such as {moved[0]!r}")
    if differences:
        raise ModelError(
            f"{student} and {other} do not agree in {'; '.join(differences)}. Teacher and student must read "
            "the same token ids: take two models of one family."
        )


def _generation_tokens(folder: str, config: PreTrainedConfig) -> tuple[int | None, tuple[int, ...]]:
    """BOS, and every EOS the sampler stops at: from generation_config.json, else from config.json."""
    source: Any = read_generation_config(folder) or config
    eos = source.eos_token_id
    return source.bos_token_id, tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)


def _token_id(tokenizer: PreTrainedTokenizerBase, name: str) -> int | None:
    """The id of a special token, which transformers' types do not know of."""
    token_id: int | None = getattr(tokenizer, f"{name}_token_id")
    return token_id
