"""New weights for a teacher's network: copied or mapped as they were published, or averaged where they are used."""

from collections.abc import Mapping

import torch

from sdft_ray.errors import ModelError, WeightVersionError
from sdft_ray.records import Publication
from sdft_ray.tensors import one_thread
from sdft_ray.weights.channel import open_publication
from sdft_ray.weights.fragments import blend

Parameters = Mapping[str, torch.Tensor]  # and buffers of the network by name: its `published_state`


@torch.no_grad()
def copy_weights(parameters: Parameters, publication: Publication) -> None:
    """Makes `parameters` those of the publication, in their own dtype.

    Raises:
        ModelError: the publication and the network do not hold the same parameters.
    """
    _check_same(parameters, publication)
    with one_thread():
        for name, tensor in open_publication(publication):
            parameters[name].copy_(tensor)


def map_weights(parameters: Parameters, publication: Publication) -> None:
    """Makes `parameters` the publication's own memory, which must not change while anything is scored.

    Raises:
        ModelError: the publication and the network do not hold the same parameters.
    """
    _check_same(parameters, publication)
    for name, tensor in open_publication(publication):
        if tensor.dtype is parameters[name].dtype:
            parameters[name].data = tensor
        else:  # a buffer, which is published in fp32
            parameters[name].copy_(tensor)


def average_weights(parameters: Parameters, version: int, publication: Publication, ema_decay: float) -> None:
    """Moves `parameters`, an average of version `version`, one step towards the published student.

    Buffers, which do not train, become the student's. Parameters have to be in fp32, and so has the publication: then
    they are the average itself, bit for bit the learner's, and nothing else has to be kept (the settings refuse
    anything else).

    Raises:
        WeightVersionError: the publication is not the next version; each has to be averaged exactly once.
        ModelError: the publication and the network do not hold the same parameters.
    """
    if publication.version != version + 1:
        raise WeightVersionError(
            f"a teacher that averages the student's weights itself holds version {version} and was given "
            f"{publication.version}: it has to see every version once. Set weights.teacher_ema=LEARNER."
        )
    _check_same(parameters, publication)
    buffers = {entry.name for bucket in publication.buckets if not bucket.trains for entry in bucket.entries}
    with one_thread(), torch.no_grad():
        for name, tensor in open_publication(publication):
            if name in buffers:
                parameters[name].copy_(tensor)
            else:
                blend(parameters[name], tensor.to(parameters[name].device), ema_decay)


def _check_same(parameters: Parameters, publication: Publication) -> None:
    shapes = {entry.name: entry.shape for bucket in publication.buckets for entry in bucket.entries}
    for name in [*parameters, *shapes]:
        held = tuple(parameters[name].shape) if name in parameters else None
        if held != shapes.get(name):
            raise ModelError(
                f"parameter {name}: the teacher's shape is {held}, that of the publication "
                f"{publication.version} is {shapes.get(name)} (None: it has no such parameter)"
            )
