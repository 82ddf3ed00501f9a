"""A tiny random-weight Llama with a real tokenizer, made offline in a second: an ordinary model folder."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sdft_ray.examples import GuardRow

BOS, START, END, PAD = SPECIAL_TOKENS = ["<|begin|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]

# As ChatML, but it writes BOS itself, like Llama 3: encoding a rendered prompt once more would double it.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# What the guards of a start compute on: two prompts with a common beginning.
GUARD_ROWS = (
    GuardRow(prompt_tokens=(0, 20, 21, 22, 23), completion_tokens=(24, 25, 26)),
    GuardRow(prompt_tokens=(0, 20, 21, 30), completion_tokens=(31, 2)),
)

_CORPUS = [
    "What is the capital of the country? The capital city is in the north. Who wrote it? She did.",
    "This is an example of a response to the question: now answer the question with a response of your own.",
    "system user assistant question answer response example river mountain year name called which where",
    "The highest mountain of the island is white in winter; people come from other places to see it.",
    "Which river flows through the town, and how long is it? Name the author of the story about the sea.",
]


def make_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of every byte and a few English words that adds BOS when it encodes."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(_CORPUS, trainer)
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, core.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BOS, eos_token=END, pad_token=PAD, chat_template=CHAT_TEMPLATE
    )


def make_tiny_model(
    folder: Path | str,
    *,
    vocab: int | None = None,
    tied: bool = True,
    seed: int = 0,
    hidden: int = 64,
    layers: int = 2,
    context: int = 512,
) -> str:
    """Saves a tiny model with its tokenizer.

    Args:
        folder: where to; made if need be.
        vocab: rows of the head; None for as many as the tokenizer has entries, more for padded rows.
        tied: whether head and embedding are one parameter.
        seed: of the weights.
        hidden: hidden size.
        layers: number of layers.
        context: longest sequence.

    Returns:
        The folder.
    """
    tokenizer = make_tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=vocab or len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # the smallest vLLM's attention has a CPU kernel for
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        initializer_range=0.2,  # ten times the usual, or all logits would be alike
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
