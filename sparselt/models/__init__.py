"""Networks of the papers by name, and the user's own by reference (`package.module:name`) or entry point.

A network is a function of (classes, channels) under `@model`, in a module of `networks/` or of the user's.
"""

import functools
from typing import TYPE_CHECKING

from sparselt import own
from sparselt.errors import SettingError
from sparselt.models.initialization import Initialization, NormScale, initialize_
from sparselt.models.networks import MODELS
from sparselt.models.registry import Build, images_of, model

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "MODELS",
    "blank_model",
    "build_model",
    "check_model",
    "check_unedited",
    "initialize_",
    "least_weights",
    "model",
    "model_digest",
    "outline",
    "prunable_shapes",
    "reason_against_live",
]

_LEAST_WEIGHTS = 9216
"""The largest layer of resnet8, the smallest of `MODELS`."""


def build_model(
    name: str,
    *,
    classes: int,
    channels: int,
    seed: int,
    initialization: Initialization = "torch",
    norm_scale: NormScale = "ones",
) -> "nn.Module":
    """A fresh network in channels-last layout whose initial weights are a function of `seed` alone.

    Args:
        name: a key of `MODELS`, a reference `package.module:name`, or an entry point of `sparselt.models`.
        classes: number of outputs.
        channels: channels of the input images.
        seed: initialization seed; the global random state is left as it was.
        initialization, norm_scale: see `initialize_`.

    Raises:
        SettingError: unknown name; a network that cannot take such images; a network of the user's own that
            `sparselt.models.checks` refuses.
    """
    import torch

    from sparselt.models.checks import check_network

    check_model(name, channels)
    build = _function(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(classes, channels) if name in MODELS else check_network(name, build, classes, channels)
        initialize_(network, initialization, norm_scale)
    return network.to(memory_format=torch.channels_last)


def check_model(name: str, channels: int, side: int | None = None, classes: int | None = None) -> None:
    """Raises a SettingError for an unknown network, or one that cannot take images of these channels and side.

    classes: given with a side, the user's own network is also built and run on blank images, see
        `sparselt.models.checks`.
    """
    images = images_of(_function(name))
    if images.channels not in (None, channels):
        raise SettingError(
            f"{name} takes images of {images.channels} channels, not {channels}; choose another model or data"
        )
    if side is not None and images.side not in (None, side):
        raise SettingError(
            f"{name} takes images of {images.side}×{images.side} pixels, not {side}; choose another model or data"
        )
    if side is not None and side < images.least_side:
        raise SettingError(f"{name} takes images of {images.least_side} pixels a side or more, not {side}")
    if side is not None and classes is not None and name not in MODELS:
        _try(name, classes, channels, side)


def reason_against_live(name: str, classes: int, channels: int) -> str:
    """Why a network has no `sparselt.models.sparse_step.SparseStep`; empty if it has one."""
    if images_of(build := _function(name)).live:
        return ""
    known = ", ".join(each for each, function in MODELS.items() if images_of(function).live)
    if name in MODELS:
        return f"{name} has no step on live weights alone, as {known} have"
    from sparselt.models.sparse_step import reason_against

    return reason_against(build(classes, channels))


@functools.cache  # a process imports the file once, and later edits do not reach it
def check_unedited(name: str, digest: str | None) -> None:
    """Raises a SettingError if the file that defines a network no longer has this `model_digest`."""
    own.check_unedited("model", name, digest, model_digest)


def model_digest(name: str) -> str | None:
    """Digest of the file that defines the user's own network (`sparselt.own.source_digest`); None for `MODELS`.

    Such a file decides results as the network's name does, so its digest is part of a stage's key.
    """
    return None if name in MODELS else own.source_digest(_function(name))


def outline(name: str, classes: int, channels: int) -> "nn.Module":
    """The network without weights, to look at its layers and shapes: on the device "meta", if it is one of `MODELS`."""
    import torch

    check_model(name, channels)
    if name not in MODELS:
        return build_model(name, classes=classes, channels=channels, seed=0)
    with torch.device("meta"):
        return MODELS[name](classes, channels)


def blank_model(name: str, classes: int, channels: int) -> "nn.Module":
    """The network without initial weights, on the CPU in channels-last layout. Load a whole state before you use it.

    Until then its weights are arbitrary, unless the network is the user's own. Drawing those of ResNet-50 takes 0.3 s.
    """
    import torch

    network = outline(name, classes, channels)
    if name not in MODELS:
        return network
    if not dict(network.named_buffers()).keys() <= network.state_dict().keys():  # the state lacks a buffer
        return build_model(name, classes=classes, channels=channels, seed=0)
    return network.to(memory_format=torch.channels_last).to_empty(device="cpu")


@functools.cache
def prunable_shapes(name: str, classes: int, channels: int) -> "dict[str, torch.Size]":
    """The shapes of the prunable weights by name, in the network's order. No memory is used for those of `MODELS`."""
    from sparselt.weights import prunable_parameters

    return {weight: p.shape for weight, p in prunable_parameters(outline(name, classes, channels))}


def least_weights(name: str) -> int:
    """A lower bound for the weights of the network's largest layer, known without loading torch.

    It suffices to see that most schedules leave some weight, see `Setting.check_weights_left`.
    """
    return _LEAST_WEIGHTS if name in MODELS else 1


def _function(name: str) -> Build:
    reference = own.reference_for("sparselt.models", name, MODELS, f"unknown model {name!r}")
    return own.resolve_callable(reference) if reference else MODELS[name]


@functools.cache
def _try(name: str, classes: int, channels: int, side: int) -> None:
    from sparselt.models.checks import check_answer, check_same

    network, again = (build_model(name, classes=classes, channels=channels, seed=0) for _ in range(2))
    check_same(name, network, again)
    check_answer(name, network, classes, channels, side)
