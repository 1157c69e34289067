"""Several networks in one optimizer: the options of each, and the names of their parameters."""

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor, nn

from sparselt.errors import MaskError, SettingError
from sparselt.optim._arena import fitted_mask
from sparselt.weights import check_network


def groups_of_networks(
    networks: Sequence[nn.Module], options: Mapping, known: Collection[str], pairs: Collection[str]
) -> tuple[list[dict], dict]:
    """A parameter group for each network, and the shared options. Parameters are called "k.name".

    options: a list or tuple holds one value for each network. known: allowed names. pairs: options whose value is a
        tuple, so that only a list holds one value for each network.
    """
    for k, network in enumerate(networks):
        check_network(network, f"network {k}")
    if not networks:
        raise SettingError("of_networks got no network: expected one or more")
    own: dict[str, Sequence] = {}
    for key, value in options.items():
        if key not in known:
            raise SettingError(f"of_networks has no option {key!r}: expected one of {', '.join(known)}")
        if isinstance(value, list if key in pairs else list | tuple):
            own[key] = value
            if len(value) != len(networks):
                raise SettingError(
                    f"{key} has {len(value)} values for {len(networks)} networks: give one for all, or one for each"
                )
    groups = [
        {
            "params": [(f"{k}.{name}", p) for name, p in network.named_parameters()],
            "network": k,
            **{key: values[k] for key, values in own.items()},
        }
        for k, network in enumerate(networks)
    ]
    return groups, {key: value for key, value in options.items() if key not in own}


def mask_of_networks(
    networks: Sequence[nn.Module], masks: Sequence[Mapping[str, Tensor] | None] | None
) -> dict[str, Tensor] | None:
    """One mask by the names of `groups_of_networks`. Raises MaskError, naming the network, if one does not fit."""
    if masks is None:
        return None
    if isinstance(masks, Mapping) or len(masks) != len(networks):
        found = "one mask" if isinstance(masks, Mapping) else f"{len(masks)} masks"
        raise MaskError(f"masks is {found} for {len(networks)} networks: give a list with one, or None, for each")
    merged = {}
    for k, (network, mask) in enumerate(zip(networks, masks, strict=True)):
        try:
            layers = fitted_mask(mask, dict(network.named_parameters()))
        except MaskError as error:
            raise MaskError(f"network {k}: {error}") from error
        merged.update({f"{k}.{name}": layer for name, layer in layers.items()})
    return merged or None
