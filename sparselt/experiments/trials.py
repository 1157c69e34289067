"""What the user brings is tried on a few images before anything trains, so that a mistake is named at once."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sparselt.errors import CriterionError

if TYPE_CHECKING:
    from sparselt.training.recipe import Techniques


@functools.cache
def check_criterion(
    criterion: str, model: str, classes: int, channels: int, side: int, techniques: "Techniques"
) -> None:
    """Tries a criterion of the user's own on a fresh network and noise; a built-in one is looked up only.

    Raises:
        SettingError: an unknown criterion; whatever its function raises.
        CriterionError: scores that cannot be used; a function that changes the network, or gives other scores to the
            same network.
    """
    import torch

    from sparselt.criteria import CRITERIA, MaskedNetwork, find_criterion
    from sparselt.masks import Mask
    from sparselt.models import build_model
    from sparselt.pruning import prune
    from sparselt.training.loop import training_loss

    found = find_criterion(criterion)
    if criterion in CRITERIA:
        return
    network = build_model(model, classes=classes, channels=channels, seed=0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    labels = torch.arange(2 * classes) % classes
    images = torch.randn(len(labels), channels, side, side, generator=torch.Generator().manual_seed(0))
    batches = [(images, labels)] if found.needs_batches else None
    initial = {name: torch.zeros_like(tensor) for name, tensor in before.items()} if found.needs == "initial" else None
    loss = functools.partial(training_loss, techniques=techniques)
    given: list[dict[str, torch.Tensor]] = []

    @functools.wraps(found.scores)
    def noted(scored: MaskedNetwork) -> Mapping[str, torch.Tensor]:
        scores = found.scores(scored)
        given.append(dict(scores) if isinstance(scores, Mapping) else {})
        return scores

    noted.__name__ = found.name
    tried = dataclasses.replace(found, scores=noted)
    for _ in range(2):
        prune(network, Mask.ones_like(network), 0.5, tried, batches=batches, loss=loss, initial=initial)
        for name, tensor in network.state_dict().items():
            if not torch.equal(tensor, before[name]):
                raise CriterionError(f"{criterion} changes {name!r} of the network; expected it to work on a copy()")
    half = len(given) // 2
    for first, second in zip(given[:half], given[half:], strict=True):
        if all(torch.equal(scores, second[name]) for name, scores in first.items()):
            continue
        raise CriterionError(
            f"{criterion} scores one network in two ways; expected all random numbers from torch's generator"
        )
