"""Weights as users hand them in: mappings from parameter names to tensors."""

from collections.abc import Mapping

from sparselt.errors import SettingError


def check_weights(weights: object, what: str = "the weights") -> None:
    """Raises a SettingError, calling them `what`, unless `weights` are tensors by name, as a state dict."""
    if not isinstance(weights, Mapping):
        raise SettingError(
            f"{what} are a {type(weights).__name__}; expected tensors by parameter name: give model.state_dict()"
        )
