"""Weights by name: the prunable ones of a network, and the check of weights that users pass."""

from collections.abc import Iterator, Mapping

from torch import nn

from sparselt.errors import SettingError


def prunable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields name and weight of every convolution and fully connected layer, shortcuts and classifier included.

    Biases and normalization parameters are not prunable (as in Frankle et al. 2019 and Paul et al. 2022), nor is a
    layer with the attribute `prunable = False`, by which a network keeps it dense. A weight that two layers share is
    yielded once, under its first name.
    """
    layers = (module for module in model.modules() if isinstance(module, nn.modules.conv._ConvNd | nn.Linear))
    weights = {id(layer.weight) for layer in layers if getattr(layer, "prunable", True)}
    for name, parameter in model.named_parameters():
        if id(parameter) in weights:
            yield name, parameter


def check_weights(weights: object, what: str = "the weights") -> None:
    """Raises a SettingError, calling them `what`, unless `weights` are tensors by name, as a state dict."""
    if not isinstance(weights, Mapping):
        raise SettingError(
            f"{what} are a {type(weights).__name__}; expected tensors by parameter name: give model.state_dict()"
        )
