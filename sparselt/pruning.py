"""Which weights go: by magnitude, by any criterion's scores, globally, layerwise or by Erdős–Rényi-Kernel."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparselt import own
from sparselt.criteria import Criterion, MaskedNetwork, Scores, find_criterion, magnitude
from sparselt.errors import CriterionError, SettingError, TrainingError
from sparselt.kernels import magnitude_mask, magnitude_threshold
from sparselt.masks import Mask, as_mask
from sparselt.scopes import (
    Rule,
    Scope,
    check_fraction,
    check_rule,
    check_scope,
    count_to_prune,
    counts_to_keep,
    weights_left,
)

__all__ = [
    "Rule",
    "Scope",
    "check_fraction",
    "check_scope",
    "empty_layers",
    "magnitude_prune",
    "prune",
    "prune_by_scores",
    "pruning_threshold",
    "weights_left",
]


def magnitude_prune(
    model: nn.Module | Mapping[str, Tensor],
    mask: Mask,
    fraction: float,
    scope: Scope = "global",
    *,
    rule: Rule = "exact",
) -> Mask:
    """The mask without the `fraction` of live weights of smallest magnitude.

    Exactly ⌈fraction · live⌉ weights go, at least one; the product is first rounded to six decimals, against floating
    point. Among equal magnitudes the first in layer and row-major order go, so the count is always exact. Magnitudes
    are compared in float32. A layer may end up empty: see `empty_layers(mask)` and `mask.live`.

    Args:
        model: the trained network, or a mapping from parameter names to weights (a checkpoint).
        mask: the current mask; already pruned weights are not counted.
        fraction: share of the live weights to prune, in (0, 1). The papers use 0.2 a level.
        scope: `global` ranks all layers together (Paul et al. 2022); `layerwise` prunes the fraction in each layer;
            `erk` prunes it of all layers together and decides by their shapes how many weights each layer keeps, see
            `sparselt.scopes.erk_counts`.
        rule: `exact` as above; `open_lth` keeps the weights that are strictly greater than the magnitude of rank
            ⌈fraction · live⌉ + 1, as open_lth's pruning/sparse_global.py does: it prunes one weight more, and all that
            tie with it. Only with scope `global`.

    Raises:
        SettingError: fraction outside (0, 1), an unknown scope or rule, a rule that does not go with the scope or
            would leave no weight, or no live weight to prune.
        MaskError: a mask of another model.
        TrainingError: a live weight that is NaN or infinite, with the layer's name.
    """
    check_fraction(fraction)
    check_scope(scope)
    check_rule(rule, scope)
    mask = as_mask(mask)
    weights, layers, live = _arguments(model, mask)
    kept = counts_to_keep(_shapes(mask), live, fraction, scope)
    counts = [a - b for a, b in zip([sum(live)] if scope == "global" else live, kept, strict=True)]
    if rule == "open_lth" and not kept[0]:
        raise SettingError(f"pruning rule 'open_lth' would leave none of {sum(live)} weights; prune a smaller fraction")
    ranked: Literal["global", "layerwise"] = "global" if scope == "global" else "layerwise"
    alive, threshold = magnitude_mask(weights, layers, counts, scope=ranked, rule=rule)
    _check_finite(mask, threshold.not_finite)
    return Mask({name: layer.to(mask[name].device) for name, layer in zip(mask, alive, strict=True)})


def prune(
    model: nn.Module | Mapping[str, Tensor],
    mask: Mask,
    fraction: float,
    criterion: str | Criterion | Scores = "magnitude",
    scope: Scope = "global",
    *,
    batches: Iterable | None = None,
    seed: int = 0,
    loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy,
    initial: Mapping[str, Tensor] | None = None,
) -> Mask:
    """The mask without the `fraction` of live weights that a criterion scores lowest.

    As many weights go as with `magnitude_prune`. A criterion of n rounds prunes to the density d · (1 - fraction)^(k/n)
    in round k, from a mask of density d (the exponential schedule of Tanaka et al. 2020, algorithm 1), and scores the
    weights that are left before each round. `model` is not changed.

    Args:
        model: the network, at initialization or after training. For criteria that need only weights, a mapping from
            parameter names to weights will do.
        mask: the current mask; `Mask.ones_like(model)` for a dense network.
        fraction: share of the live weights to prune, in (0, 1).
        criterion: a name in `sparselt.criteria.CRITERIA`, a function from a `MaskedNetwork` to scores by layer name,
            or a `Criterion`.
        scope: as for `magnitude_prune`.
        batches: labelled images for criteria that need them: batches (images, labels, …), readable more than once.
        seed: for random scores, and for torch's random numbers while a criterion runs.
        loss: mean loss of (outputs, labels) over a batch, for criteria that need it.
        initial: weights at initialization by parameter name, for criteria that need them.

    Raises:
        SettingError: fraction outside (0, 1), an unknown scope or criterion, no live weight to prune, or a criterion
            that needs a network or data and got none.
        MaskError: a mask of another model.
        TrainingError: a live weight that is NaN or infinite, with the layer's name.
        CriterionError: scores that cannot be used, see `prune_by_scores`.
    """
    chosen = find_criterion(criterion)
    if chosen.scores is magnitude:  # the kernel selects the same weights faster
        return magnitude_prune(model, mask, fraction, scope)
    check_fraction(fraction)
    check_scope(scope)
    given = as_mask(mask)
    weights, layers, live = _arguments(model, given)
    start = given.named_as(_by_name(model))
    not_finite = [(~torch.isfinite(w) & layer).sum() for w, layer in zip(weights, layers, strict=True)]
    _check_finite(start, torch.stack(not_finite))
    mask = start
    for done in range(1, chosen.rounds + 1):
        reached = 1 - (1 - fraction) ** (done / chosen.rounds) if done < chosen.rounds else fraction
        scores = _scores(chosen, MaskedNetwork(model, mask, batches, loss, seed, initial))
        kept = counts_to_keep(_shapes(mask), _live(mask), reached, scope, start=live)
        mask = _keep_highest(scores, mask, kept)
    return Mask(dict(zip(given, mask.values(), strict=True)))


def prune_by_scores(scores: Mapping[str, Tensor], mask: Mask, fraction: float, scope: Scope = "global") -> Mask:
    """The mask without the `fraction` of live weights with the lowest scores.

    As many weights go as with `magnitude_prune`. Among equal scores the first in layer and row-major order go.

    Args:
        scores: a floating-point tensor of each mask layer's shape, by name, on one device. Signed; compared in their
            own dtype, layers of several dtypes in the widest. Scores of pruned weights may be anything.
        mask, fraction, scope: as for `magnitude_prune`.

    Raises:
        SettingError: fraction outside (0, 1), an unknown scope, or no live weight to prune.
        CriterionError: scores that are not a mapping; a layer that is missing, unknown, not a floating-point tensor, of
            another shape or on another device; a live weight whose score is NaN or infinite.
    """
    check_fraction(fraction)
    check_scope(scope)
    mask = as_mask(mask)
    live = _live(mask)
    _check_some_live(live)
    checked = _check_scores(scores, mask, None, "scores")
    return _keep_highest(checked, mask, counts_to_keep(_shapes(mask), live, fraction, scope))


def pruning_threshold(model: nn.Module | Mapping[str, Tensor], mask: Mask, fraction: float) -> float:
    """The largest magnitude that `magnitude_prune` with scope `global` would prune.

    Arguments and errors as for `magnitude_prune`.
    """
    check_fraction(fraction)
    mask = as_mask(mask)
    weights, layers, live = _arguments(model, mask)
    threshold = magnitude_threshold(weights, layers, count_to_prune(fraction, sum(live)))
    _check_finite(mask, threshold.not_finite)
    return threshold.value.item()


def empty_layers(mask: Mask) -> list[str]:
    """Names of the layers in which no weight is left."""
    return [name for name, layer in mask.items() if not layer.any()]


def _scores(criterion: Criterion, network: MaskedNetwork) -> dict[str, Tensor]:
    """The criterion's checked scores. They do not depend on random numbers drawn earlier."""
    device = network.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(network.seed)
        expected = "a function of a sparselt.criteria.MaskedNetwork that returns scores by layer name"
        scores = own.called(f"criterion {criterion.name!r}", criterion.scores, network, expected=expected)
    return _check_scores(scores, network.mask, device, f"criterion {criterion.name!r}")


def _check_scores(scores: object, mask: Mask, device: torch.device | None, what: str) -> dict[str, Tensor]:
    """The scores in the order of the mask's layers, without gradients.

    device: where all should be; that of the first layer's scores unless given.
    what: how messages begin.
    """
    if not isinstance(scores, Mapping):
        raise CriterionError(f"{what}: got a {type(scores).__name__}; expected score tensors by layer name")
    odd = sorted(map(str, mask.keys() ^ scores.keys()))
    if odd:
        found = "no scores for layer" if odd[0] in mask else "scores for an unknown layer"
        raise CriterionError(f"{what}: got {found} {odd[0]!r}; expected exactly the mask's layers, {', '.join(mask)}")
    checked: dict[str, Tensor] = {}
    for name, layer in mask.items():
        found, layers_scores = scores[name], f"{what}: the scores of layer {name!r}"
        if not isinstance(found, Tensor):
            raise CriterionError(f"{layers_scores} are a {type(found).__name__}; expected a tensor")
        if not found.is_floating_point():
            raise CriterionError(f"{layers_scores} are {found.dtype}; expected a floating-point dtype")
        if found.shape != layer.shape:
            raise CriterionError(
                f"{layers_scores} have shape {tuple(found.shape)}; expected its weight's, {tuple(layer.shape)}"
            )
        device = found.device if device is None else device
        if found.device != device:
            raise CriterionError(f"{layers_scores} are on {found.device}; expected them on {device}")
        bad = int((~torch.isfinite(found) & layer.to(device)).sum())
        if bad:
            raise CriterionError(f"{layers_scores} are NaN or infinite for {bad} live weights; expected finite scores")
        checked[name] = found.detach()
    return checked


def _keep_highest(scores: Mapping[str, Tensor], mask: Mask, counts: list[int]) -> Mask:
    """The mask of the live weights with the highest scores: counts[0] of all layers together, or counts[i] of each."""
    groups = [list(mask)] if len(counts) == 1 else [[name] for name in mask]
    kept = [_highest(mask.live_values(scores, names), count) for names, count in zip(groups, counts, strict=True)]
    return mask.keep(torch.cat(kept))


def _highest(values: Tensor, count: int) -> Tensor:
    """True for the `count` highest of float [n]. Among equal values the last ones stay."""
    pruned = len(values) - count
    if not pruned:
        return torch.ones(len(values), dtype=torch.bool, device=values.device)
    values = values.float() if values.itemsize < 4 else values
    threshold = values.kthvalue(pruned).values
    lower, equal = values < threshold, values == threshold
    return ~(lower | (equal & (equal.cumsum(0) <= pruned - lower.sum())))


def _arguments(model: nn.Module | Mapping[str, Tensor], mask: Mask) -> tuple[list[Tensor], list[Tensor], list[int]]:
    """Weight and mask of each masked layer on one device, and its number of live weights."""
    weights = _by_name(model)
    mask = mask.named_as(weights)
    live = _live(mask)
    _check_some_live(live)
    device = weights[next(iter(mask))].device
    return [weights[name].to(device) for name in mask], [layer.to(device) for layer in mask.values()], live


def _by_name(model: nn.Module | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return dict(model.named_parameters()) if isinstance(model, nn.Module) else model


def _live(mask: Mask) -> list[int]:
    return [int(torch.count_nonzero(layer)) for layer in mask.values()]


def _shapes(mask: Mask) -> list[torch.Size]:
    return [layer.shape for layer in mask.values()]


def _check_some_live(live: list[int]) -> None:
    if not any(live):
        raise SettingError("no weight is left to prune; prune fewer times, or a smaller fraction")


def _check_finite(mask: Mask, not_finite: Tensor) -> None:
    for name, number in zip(mask, not_finite.tolist(), strict=True):
        if number:
            raise TrainingError(f"cannot prune {name!r}: it holds weights that are not finite; the training diverged")
