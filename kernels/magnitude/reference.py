"""magnitude_threshold and its mask in plain torch, by sorting."""

import torch
from torch import Tensor


def keys(weight: Tensor) -> Tensor:
    """int64 that order like the magnitudes: the bits of |w| in float32, every NaN one above infinity."""
    magnitude = weight.float().abs()
    bits = magnitude.view(torch.int32).long() & 0x7FFFFFFF
    return torch.where(torch.isnan(magnitude), 0x7F800001, bits)


def threshold(weights: list[Tensor], masks: list[Tensor | None], count: int) -> float:
    """The count-th smallest live magnitude of all layers; -infinity for count 0."""
    if count == 0:
        return float("-inf")
    live = [
        w.float().abs()[m] if m is not None else w.float().abs().flatten() for w, m in zip(weights, masks, strict=True)
    ]
    return torch.sort(torch.cat(live)).values[count - 1].item()


def keep(weights: list[Tensor], masks: list[Tensor | None], count: int) -> list[Tensor]:
    """The masks without the count smallest: of equal ones the first in layer and index order go."""
    layers = [torch.ones_like(w, dtype=torch.bool) if m is None else m for w, m in zip(weights, masks, strict=True)]
    order = torch.sort(torch.cat([keys(w)[m] for w, m in zip(weights, layers, strict=True)]), stable=True).indices
    kept = torch.ones(len(order), dtype=torch.bool)
    kept[order[:count]] = False
    answers, start = [], 0
    for mask in layers:
        number = int(mask.sum())
        answer = mask.clone()
        answer[mask] = kept[start : start + number]
        answers.append(answer)
        start += number
    return answers
