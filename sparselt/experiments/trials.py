"""What the user brings is tried on a few zeros before anything trains, so that a mistake is named at once."""

import functools


@functools.cache
def check_criterion(criterion: str, model: str, classes: int, channels: int, side: int) -> None:
    """Raises a SettingError for an unknown criterion, and whatever one of the user's own gives that cannot be used.

    A criterion that is built in is looked up only.
    """
    import torch

    from sparselt.criteria import CRITERIA, find_criterion
    from sparselt.masks import Mask
    from sparselt.models import build_model
    from sparselt.pruning import prune

    found = find_criterion(criterion)
    if criterion in CRITERIA:
        return
    network = build_model(model, classes=classes, channels=channels, seed=0)
    labels = torch.arange(2 * classes) % classes
    batches = [(torch.zeros(len(labels), channels, side, side), labels)]
    prune(network, Mask.ones_like(network), 0.5, found, batches=batches)
