"""interpolate in plain torch and float64, one weight set at a time, and the distance to the hull by brute force."""

import torch
from torch import Tensor


def interpolate(
    ends: list[list[Tensor]], coefficients: Tensor, *, hull: Tensor, prunable: list[bool], masks: list[Tensor | None]
) -> list[Tensor]:
    """[K, *shape] float64 a tensor. hull: the coefficients of tensors that are not prunable, shaped like the others."""
    answers = []
    for i, tensors in enumerate(zip(*ends, strict=True)):
        a, *others = [tensor.double() for tensor in tensors]
        rows, mask = [], masks[i]
        for point in (coefficients if prunable[i] else hull).double().view(len(coefficients), len(ends) - 1):
            weight = a + sum(s * (end - a) for s, end in zip(point, others, strict=True))
            rows.append(weight if mask is None else torch.where(mask, weight, 0.0))
        answers.append(torch.stack(rows) if rows else a.new_empty(0, *a.shape))
    return answers


def squared_distance_to_hull(point: Tensor, gram: Tensor, steps: int = 400) -> float:
    """The squared distance from a point (s, t) to the nearest point of a fine grid over the triangle of the ends."""
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    s, t = torch.meshgrid(share, share, indexing="ij")
    gap = point.double() - torch.stack([s, t], dim=2)[s + t <= 1 + 1e-12]
    return float((gap @ gram.double() * gap).sum(1).min())
