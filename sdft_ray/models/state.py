"""The state of a network: what `save_pretrained` writes of it, which is more than what an optimizer trains.

Some networks keep weights in buffers: the scale of a layer (Gemma 4), what a router adds to its scores (DeepSeek V3).
A network without these buffers computes something else. They do not train, so an average holds copies of the student's.
They keep their own dtype everywhere: what a router adds does not survive a rounding to bf16. Every process makes the
buffers that are not saved from the configuration. ZeRO cuts up parameters only.
"""

import torch

FACTORS = A, B = ".lora_A.default.weight", ".lora_B.default.weight"  # behind the name of a layer, as peft names them


def saved_buffers(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The buffers that are saved with a network by name, shared ones once; the tensors are its own."""
    saved = module.state_dict()
    return {name: buffer for name, buffer in module.named_buffers() if name in saved}


def published_buffers(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Those of `saved_buffers` that travel with published weights: the floating ones.

    Integers count or index, and every worker has them from the model folder.
    """
    return {name: buffer for name, buffer in saved_buffers(module).items() if buffer.is_floating_point()}


def trained_parameters(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """What is trained of a network by name: an adapter's factors if it has one, else every parameter, tied ones once.

    The one definition for all who train, average, publish, load, save or export. It asks for no gradient: a teacher's
    network has none.
    """
    parameters = dict(module.named_parameters())
    factors = {name: value for name, value in parameters.items() if name.endswith(FACTORS)}
    return factors or parameters


def published_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What a publication of a network's weights holds: what is trained, then floating buffers."""
    return trained_parameters(module) | published_buffers(module)


def copy_buffers(module: torch.nn.Module, values: dict[str, torch.Tensor]) -> None:
    """Gives saved buffers other values, each in the dtype of its value."""
    for name, value in values.items():
        owner, _, leaf = name.rpartition(".")
        place = module.get_submodule(owner)
        setattr(place, leaf, value.to(place.get_buffer(leaf).device))
