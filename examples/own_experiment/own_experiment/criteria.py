"""A pruning criterion of your own: a function from a masked network to a score for every weight."""

from torch import Tensor

from sparselt.criteria import MaskedNetwork


def relative_magnitude(network: MaskedNetwork) -> dict[str, Tensor]:
    """|w| over the root mean square of the layer's live weights, so that no layer is pruned for its scale alone."""
    alive = {name: weight[network.mask[name]] for name, weight in network.weights.items()}
    return {name: weight.abs() / alive[name].square().mean().sqrt() for name, weight in network.weights.items()}
