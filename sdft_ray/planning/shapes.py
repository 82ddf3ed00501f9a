"""The shapes of well-known models, as their public config.json files have them: planning needs no download."""

from sdft_ray.errors import ConfigError
from sdft_ray.models.arithmetic import NetworkShape


def _qwen25(
    *, hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, rows: int = 152_064, tied: bool = False
) -> NetworkShape:
    head_dim = hidden // heads
    return NetworkShape(
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        vocab_size=rows,
        tied_head=tied,
        context_length=32_768,
        bias_elements_per_layer=(heads + 2 * kv_heads) * head_dim,
        lean=True,
    )


KNOWN_SHAPES = {
    "qwen2.5-3b": _qwen25(hidden=2048, layers=36, heads=16, kv_heads=2, intermediate=11_008, rows=151_936, tied=True),
    "qwen2.5-7b": _qwen25(hidden=3584, layers=28, heads=28, kv_heads=4, intermediate=18_944),
    "qwen2.5-14b": _qwen25(hidden=5120, layers=48, heads=40, kv_heads=8, intermediate=13_824),
    "qwen2.5-32b": _qwen25(hidden=5120, layers=64, heads=40, kv_heads=8, intermediate=27_648),
    "qwen2.5-72b": _qwen25(hidden=8192, layers=80, heads=64, kv_heads=8, intermediate=29_568),
}


def known_shape(name: str) -> NetworkShape:
    """The shape of a model by its name.

    Raises:
        ConfigError: no shape of that name is known.
    """
    if name not in KNOWN_SHAPES:
        remedy = f"choose one of {', '.join(KNOWN_SHAPES)}, or give model.path a folder that holds its config.json"
        raise ConfigError("plan.model", name, "is no model whose shape is known", remedy)
    return KNOWN_SHAPES[name]
