"""magnitude_threshold: the exact k-th smallest magnitude over all live weights, and the mask without the k smallest.

Radix selection: the bits of |w|, read as an unsigned integer, have the order of |w|. A histogram of the highest bits
tells which bin holds the k-th smallest; histograms of lower bits, over the weights in that bin, narrow it down to one
value. Nothing is sorted, and a GPU sends nothing to the host. Bytes moved for each weight, float32 with a mask: 5 in
each pass, with 2 or 3 passes on a CPU and 4 on a GPU; making the new mask takes 6 more, on a GPU 11.

Order: 0.0 and -0.0 tie. Infinity comes after every finite number, NaN after infinity; all NaNs tie. Weights that are
not finite are counted for each layer, so that a caller can refuse the layer by name.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .._library import implement
from .._order import is_dense, same_order

Scope = Literal["global", "layerwise"]
Rule = Literal["exact", "open_lth"]

NAN_KEY = 0x7F800001  # the key of every NaN: one above infinity

_library = torch.library.Library("sparselt", "FRAGMENT")
_library.define(
    "magnitude_threshold(Tensor[] weights, Tensor?[] masks, Tensor count, bool layerwise) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "magnitude_keep(Tensor[] weights, Tensor?[] masks, Tensor threshold, Tensor? ties, bool layerwise) -> Tensor[]"
)


class Threshold(NamedTuple):
    """The k-th smallest magnitude, and counts from the same passes, on the weights' device."""

    value: Tensor  # float32, [] (global) or [layers]; -infinity for k = 0, NaN for k beyond the live weights
    ties: Tensor  # int64, as `value`: how many of the weights equal to it are among the k smallest
    live: Tensor  # int64 [layers]: live weights
    not_finite: Tensor  # int64 [layers]: live weights that are NaN or infinite


def magnitude_threshold(
    weights: Sequence[Tensor],
    masks: Sequence[Tensor | None] | None,
    count: int | Sequence[int] | Tensor,
    *,
    scope: Scope = "global",
) -> Threshold:
    """The count-th smallest |w| (1: the smallest) over the live weights of all layers, or of each layer.

    weights: a tensor a layer, any shapes and memory order, on one device. float32 and bfloat16 are read in place; other
        floating-point types are first rounded to float32, as is a list of several types.
    masks: for each layer a bool tensor of the weight's shape (True: live), or None if all its weights are live.
    count: an integer, or int64 [] on the weights' device; with scope `layerwise` a sequence or int64 [layers].
    Raises ValueError or TypeError naming the position of the offending layer. A count above the number of live weights
    raises ValueError on a CPU; on a GPU it is not checked, and the threshold is NaN.
    """
    weights, masks, count = _arguments(weights, masks, count, scope)
    pairs = [_in_place(w, m) for w, m in zip(weights, masks, strict=True)]
    return _threshold([w for w, _ in pairs], [m for _, m in pairs], count, scope)


def magnitude_mask(
    weights: Sequence[Tensor],
    masks: Sequence[Tensor | None] | None,
    count: int | Sequence[int] | Tensor,
    *,
    scope: Scope = "global",
    rule: Rule = "exact",
) -> tuple[list[Tensor], Threshold]:
    """The masks without the `count` live weights of smallest magnitude, and the threshold that decided it.

    Arguments as for `magnitude_threshold`. The masks are new, contiguous bool tensors.

    rule `exact`: removes exactly `count` weights; among equal magnitudes, the first in the order of layers and of
        indices within a layer, whatever the memory order.
    rule `open_lth`: keeps only weights strictly greater than the (count + 1)-th smallest, as open_lth's
        pruning/sparse_global.py does. So it removes count + 1 weights and all that tie with the last of them.
        `Threshold` is the one for count + 1, which must not exceed the number of live weights.
    """
    if rule not in ("exact", "open_lth"):
        raise ValueError(f"rule is {rule!r}: expected 'exact' or 'open_lth'")
    weights, masks, count = _arguments(weights, masks, count, scope)
    weights = [weight.contiguous() for weight in weights]
    masks = [None if mask is None else mask.contiguous() for mask in masks]
    threshold = _threshold(weights, masks, count + 1 if rule == "open_lth" else count, scope)
    ties = threshold.ties.reshape(-1) if rule == "exact" else None
    value = threshold.value.reshape(-1)
    with torch.no_grad():
        kept = torch.ops.sparselt.magnitude_keep(weights, masks, value, ties, scope == "layerwise")
    return kept, threshold


def _threshold(weights: list[Tensor], masks: list[Tensor | None], count: Tensor, scope: Scope) -> Threshold:
    with torch.no_grad():
        found = torch.ops.sparselt.magnitude_threshold(weights, masks, count, scope == "layerwise")
    value, ties, live, not_finite = found
    if scope == "global":
        value, ties = value[0], ties[0]
    return Threshold(value, ties, live, not_finite)


def _arguments(weights, masks, count, scope) -> tuple[list[Tensor], list[Tensor | None], Tensor]:
    weights = [weight.detach() for weight in weights]
    masks = [None] * len(weights) if masks is None else list(masks)
    if scope not in ("global", "layerwise"):
        raise ValueError(f"scope is {scope!r}: expected 'global' or 'layerwise'")
    if not weights or len(masks) != len(weights):
        raise ValueError(f"{len(weights)} layers with {len(masks)} masks: expected one a layer, and a layer")
    device = weights[0].device
    for i, (weight, mask) in enumerate(zip(weights, masks, strict=True)):
        if not weight.is_floating_point():
            raise TypeError(f"layer {i} is {weight.dtype}: expected a floating-point tensor")
        if weight.device != device:
            raise ValueError(f"layer {i} is on {weight.device}, layer 0 on {device}: move them to one device")
        if mask is not None and (mask.device, mask.dtype, mask.shape) != (device, torch.bool, weight.shape):
            raise ValueError(
                f"mask {i} is {mask.dtype} {tuple(mask.shape)} on {mask.device}: "
                f"expected torch.bool {tuple(weight.shape)} on {device}"
            )
    kind = weights[0].dtype
    if kind not in (torch.float32, torch.bfloat16) or any(weight.dtype != kind for weight in weights):
        weights = [weight.float() for weight in weights]
    return weights, masks, _counts(count, len(weights) if scope == "layerwise" else 1, scope, device)


def _counts(count, groups: int, scope: Scope, device: torch.device) -> Tensor:
    if isinstance(count, Tensor):
        if count.dtype != torch.int64 or count.device != device or count.numel() != groups:
            raise ValueError(
                f"count is {count.dtype} {tuple(count.shape)} on {count.device}: "
                f"expected {groups} of torch.int64 on {device} ({scope})"
            )
        return count.reshape(groups)
    if isinstance(count, float | str):
        raise TypeError(f"count is {count!r}: expected an integer, a sequence of integers or a tensor")
    numbers = [count] if isinstance(count, int) else list(count)
    if len(numbers) != groups:
        raise ValueError(f"{len(numbers)} counts for scope {scope!r}: expected {groups}")
    for number in numbers:
        if number < 0:
            raise ValueError(f"count is {number}: expected 0 or more")
    if groups == 1:
        return torch.full((1,), numbers[0], dtype=torch.int64, device=device)
    return torch.tensor(numbers, dtype=torch.int64, device=device)


def _in_place(weight: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight and mask in one memory order. Counting takes any order."""
    if is_dense(weight) and (mask is None or (is_dense(mask) and same_order(weight, mask))):
        return weight, mask
    return weight.contiguous(), None if mask is None else mask.contiguous()


implement(_library, "magnitude_threshold", __name__, "threshold")
implement(_library, "magnitude_keep", __name__, "keep")


@torch.library.register_fake("sparselt::magnitude_threshold", lib=_library)
def _fake_threshold(weights, masks, count, layerwise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    layers = count.new_empty(len(weights))
    return torch.empty_like(count, dtype=torch.float32), torch.empty_like(count), layers, torch.empty_like(layers)


@torch.library.register_fake("sparselt::magnitude_keep", lib=_library)
def _fake_keep(weights, masks, threshold, ties, layerwise) -> list[Tensor]:
    return [torch.empty_like(weight, dtype=torch.bool) for weight in weights]
