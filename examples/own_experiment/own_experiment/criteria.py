"""A pruning criterion of your own: a function from a masked network to a score for every weight."""

import torch
from torch import Tensor

from sparselt.criteria import MaskedNetwork


def lamp(network: MaskedNetwork) -> dict[str, Tensor]:
    """w² over the sum of the squares of all weights of the layer that are no smaller (LAMP, Lee et al. 2021, eq. 4)."""
    scores = {}
    for name, weight in network.weights.items():
        squares, places = weight.square().flatten().sort()
        shares = squares / squares.flip(0).cumsum(0).flip(0)
        scores[name] = torch.empty_like(shares).scatter_(0, places, shares).reshape(weight.shape)
    return scores
