"""Checks of the user's own network, made before anything trains."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparselt.errors import SettingError
from sparselt.models.registry import Build
from sparselt.weights import prunable_parameters


def check_network(name: str, build: Build, classes: int, channels: int) -> nn.Module:
    """Builds the network, and checks that it can be trained and pruned.

    Raises:
        SettingError: the function fails, or returns no torch.nn.Module; a parameter is not finite, not float32, not on
            the CPU, has no shape yet, or has two names; the network has no convolution and no fully connected layer.
    """
    try:
        network = build(classes, channels)
    except Exception as error:
        raise SettingError(
            f"{name}({classes}, {channels}) raised {type(error).__name__}: {error}; expected a function of "
            "(classes, channels) that returns a torch.nn.Module"
        ) from error
    if not isinstance(network, nn.Module):
        raise SettingError(f"{name} returned a {type(network).__name__}; expected a torch.nn.Module")
    for weight, parameter in network.named_parameters():
        found = f"{name}: parameter {weight!r}"
        if is_lazy(parameter):
            raise SettingError(f"{found} has no shape before the first batch; expected layers with all sizes given")
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            raise SettingError(f"{found} is {parameter.dtype} on {parameter.device}; expected torch.float32 on cpu")
        if not parameter.isfinite().all():
            raise SettingError(f"{found} holds numbers that are not finite; expected finite initial weights")
    names: dict[int, str] = {}
    for weight, parameter in network.named_parameters(remove_duplicate=False):
        if weight != (first := names.setdefault(id(parameter), weight)):
            raise SettingError(
                f"{name}: {first!r} and {weight!r} are one parameter; expected each layer to have weights of its own, "
                "because a mask and a file have one entry for each name"
            )
    if not any(True for _ in prunable_parameters(network)):
        raise SettingError(f"{name} has no convolution and no fully connected layer; expected a weight to prune")
    return network


def check_same(name: str, first: nn.Module, second: nn.Module) -> None:
    """Raises a SettingError unless two networks built from one seed are equal."""
    one, other = first.state_dict(), second.state_dict()
    if one.keys() != other.keys() or not all(torch.equal(one[key], other[key]) for key in one):
        raise SettingError(
            f"{name} gave two different networks for one seed; expected all random numbers from torch's generator"
        )


def check_answer(name: str, network: nn.Module, classes: int, channels: int, side: int) -> None:
    """Raises a SettingError unless two blank images give finite outputs float [2, classes], in eval mode."""
    shape = (2, channels, side, side)
    training = network.training
    try:
        with torch.no_grad():
            outputs = network.eval()(torch.zeros(shape))
    except Exception as error:
        raise SettingError(
            f"{name} fails on images of shape {list(shape)} ({type(error).__name__}: {error}); expected outputs of "
            f"shape [2, {classes}]"
        ) from error
    finally:
        network.train(training)
    found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if found != [2, classes]:
        raise SettingError(f"{name} answers two images with {found}; expected a tensor of shape [2, {classes}]")
    if not outputs.isfinite().all():
        raise SettingError(f"{name} answers blank images with outputs that are not finite; expected numbers")
