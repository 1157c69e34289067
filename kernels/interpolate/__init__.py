"""interpolate: K weight sets between two networks (a path) or among three (a plane), in one pass over them.

For end points a, b and c, a weight at coefficients s (path) or s, t (plane) is::

    w = a + s·(b - a) + t·(c - a)                                (t = 0 on a path)

The computation starts from the end with the largest barycentric coordinate. So coefficients 0 and 1 give the ends to
the bit, including NaN, infinity and -0.0 (a NaN in bfloat16 may change its bits), and an edge of the plane does not
depend on the third end. Masked weights are exactly 0.0.

Inside the convex hull of the ends every tensor is interpolated. Outside it prunable tensors extrapolate; others take
the nearest point of the hull (Paul et al. 2022, appendix C, for Fig. 3). On a path that is the position clamped to
[0, 1]. In a plane, nearest means the Euclidean distance between whole networks, in which the paper draws the plane.
Unlike the distance between coefficients, it does not depend on which end is called a. It needs the Gram matrix of
b - a and c - a; see `gram_matrix` and `project_to_hull`.

Batch-norm statistics among the tensors (prunable False) are interpolated; others stay as they are. Bytes moved for
each weight in float32: 8 + 4K on a path, 12 + 4K in a plane, 1 more under a mask. A loop of `torch.lerp` moves 12K, and
12K more if a mask is multiplied in.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._library import implement
from .._order import is_dense, same_order

_library = torch.library.Library("sparselt", "FRAGMENT")
_library.define(
    "interpolate(Tensor(a!)[] out, Tensor[] first, Tensor[] second, Tensor[] third, Tensor coefficients, "
    "Tensor?[] masks, bool[] prunable) -> ()"
)


def interpolate(
    ends: Sequence[Tensor] | Sequence[Sequence[Tensor]],
    coefficients: Tensor,
    *,
    prunable: Sequence[bool] | None = None,
    masks: Sequence[Tensor | None] | None = None,
    gram: Tensor | None = None,
    out: Tensor | Sequence[Tensor] | None = None,
) -> Tensor | list[Tensor]:
    """The K weight sets: for each tensor of an end point, a tensor [K, *shape] in its dtype and memory order.

    ends: two or three networks. Each is a list of equally shaped tensors (float32, bfloat16; float64 on a CPU) of one
        dtype on one device, or a single tensor; then the result is a single tensor, [K, *shape]. A tensor that is not
        dense, or has another memory order than in the first end, is copied first.
    coefficients: [K] positions on a path or [K, 2] pairs (s, t) in a plane, floating point, on the ends' device. Those
        that are not finite give weights that are not finite.
    prunable: for each tensor, whether it extrapolates; default: all do.
    masks: for each tensor a bool tensor of its shape, or None (all live); the same for all K.
    gram: the matrix of `gram_matrix` that measures distances in a plane; default: the one of all given tensors, which
        takes another pass over them unless all are prunable.
    out: tensors to fill and return instead of new ones: [K, *shape] each, `out[i][k]` with the strides of the first
        end's tensor i. They must not share memory with one another or with an input.
    Raises ValueError or TypeError, before anything is written, naming the position of the offending tensor.
    """
    single = isinstance(ends[0], Tensor) if ends else False
    networks = [[end] if isinstance(end, Tensor) else list(end) for end in ends]
    count = len(networks[0]) if networks else 0
    prunable = [True] * count if prunable is None else [bool(p) for p in prunable]
    masks = [None] * count if masks is None else list(masks)
    _check(networks, coefficients, prunable, masks)
    with torch.no_grad():
        wide = torch.float64 if count and networks[0][0].dtype == torch.float64 else torch.float32
        weights = _coefficients(networks, coefficients, prunable, gram).to(wide).contiguous()
        first = [a if a.is_contiguous() or is_dense(a) else a.contiguous() for a in networks[0]]
        others = [[_like(tensor, a) for tensor, a in zip(end, first, strict=True)] for end in networks[1:]]
        masks = [None if m is None else _like(m, a) for m, a in zip(masks, first, strict=True)]
        if out is None:
            out = [_empty(len(coefficients), a) for a in first]
        else:
            out = [out] if isinstance(out, Tensor) else list(out)
            _check_out(out, first, len(coefficients))
        third = others[1] if len(networks) == 3 else []
        torch.ops.sparselt.interpolate(out, first, others[0], third, weights, masks, prunable)
    return out[0] if single else out


def project_to_hull(coefficients: Tensor, gram: Tensor | None = None) -> Tensor:
    """The nearest points of the convex hull, as float64 coefficients of the same shape. Points inside stay.

    coefficients: [K], clamped to [0, 1], or [K, 2] with `gram`, the [2, 2] matrix of `gram_matrix`. If the ends lie on
    a line, several coefficients stand for the same network, and the answer may be any of them.
    """
    points = coefficients.double()
    if points.dim() == 1:
        return points.clamp(0, 1)
    if gram is None:
        raise ValueError("a plane's hull needs a distance: give the matrix of gram_matrix(ends)")
    if gram.shape != (2, 2):
        raise ValueError(f"gram has shape {tuple(gram.shape)}: expected (2, 2), the matrix of gram_matrix(ends)")
    gram = gram.to(points)
    # Made on the device: a copy from the host would make it wait, and cannot be captured.
    corners = torch.cat([points.new_zeros(1, 2), torch.eye(2, dtype=points.dtype, device=points.device)])
    start, edge = corners, corners.roll(-1, 0) - corners
    along = (points[:, None] - start) @ gram * edge  # [K, 3, 2]: inner products with each edge, over its coordinates
    length = (edge @ gram * edge).sum(1)
    share = (along.sum(2) / torch.where(length > 0, length, 1)).clamp(0, 1)
    nearest = start + share[..., None] * edge
    gap = points[:, None] - nearest
    best = (gap @ gram * gap).sum(2).argmin(1)
    nearest = nearest.gather(1, best[:, None, None].expand(-1, 1, 2))[:, 0]
    inside = (points[:, 0] >= 0) & (points[:, 1] >= 0) & (points.sum(1) <= 1)
    return torch.where(inside[:, None], points, nearest)


def gram_matrix(ends: Sequence[Sequence[Tensor]]) -> Tensor:
    """Inner products of b - a and c - a over all tensors of three end points: float64 [2, 2], on their device."""
    matrix = torch.zeros(2, 2, dtype=torch.float64, device=ends[0][0].device if len(ends[0]) else None)
    for a, b, c in zip(*ends, strict=True):
        wide = torch.float64 if a.dtype == torch.float64 else torch.float32
        steps = torch.stack([(b.to(wide) - a).flatten(), (c.to(wide) - a).flatten()])
        matrix += steps @ steps.t()
    return matrix


def _coefficients(ends, coefficients: Tensor, prunable: list[bool], gram: Tensor | None) -> Tensor:
    """[2, K, 2]: s and t for prunable tensors, then for the others."""
    hull = coefficients
    if not all(prunable):
        if coefficients.dim() == 2 and gram is None:
            gram = gram_matrix(ends)
        hull = project_to_hull(coefficients, gram)
    both = torch.stack([coefficients.double(), hull.double()])
    return both if both.dim() == 3 else torch.stack([both, torch.zeros_like(both)], dim=2)


def _like(tensor: Tensor, model: Tensor) -> Tensor:
    # Compare strides first: the full comparison takes 2 µs, and a network needs hundreds.
    if tensor.stride() == model.stride() or (is_dense(tensor) and same_order(tensor, model)):
        return tensor
    return torch.empty_like(model, dtype=tensor.dtype).copy_(tensor)


def _empty(points: int, model: Tensor) -> Tensor:
    strides = (model.numel(), *model.stride())
    return torch.empty_strided((points, *model.shape), strides, dtype=model.dtype, device=model.device)


def _check(ends, coefficients, prunable, masks) -> None:
    if len(ends) not in (2, 3):
        raise ValueError(f"{len(ends)} end points: expected two (a path) or three (a plane)")
    count = len(ends[0])
    lengths = [*map(len, ends), len(prunable), len(masks)]
    if set(lengths) != {count}:
        raise ValueError(
            f"end points of {', '.join(map(str, lengths[:-2]))} tensors with {lengths[-2]} prunable flags and "
            f"{lengths[-1]} masks: expected equally many"
        )
    if not isinstance(coefficients, Tensor):
        raise TypeError(f"coefficients are a {type(coefficients).__name__}: expected a floating-point tensor")
    if coefficients.dim() != len(ends) - 1 or (len(ends) == 3 and coefficients.shape[1] != 2):
        expected = "[K] for two end points" if len(ends) == 2 else "[K, 2] for three end points"
        raise ValueError(f"coefficients have shape {tuple(coefficients.shape)}: expected {expected}")
    if not coefficients.is_floating_point():
        raise TypeError(f"coefficients are {coefficients.dtype}: expected a floating-point tensor")
    if not count:
        return
    device, dtype = ends[0][0].device, ends[0][0].dtype
    allowed = (torch.float32, torch.bfloat16) + ((torch.float64,) if device.type == "cpu" else ())
    if dtype not in allowed:
        raise TypeError(f"tensor 0 is {dtype} on {device}: expected one of {', '.join(map(str, allowed))}")
    if coefficients.device != device:
        raise ValueError(f"coefficients are on {coefficients.device}, the end points on {device}: move them there")
    for end, tensors in enumerate(ends):
        for i, tensor in enumerate(tensors):
            shape = ends[0][i].shape
            if (tensor.device, tensor.dtype, tensor.shape) != (device, dtype, shape):
                raise ValueError(
                    f"tensor {i} of end point {end} is {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}: "
                    f"expected {dtype} {tuple(shape)} on {device}"
                )
    for i, mask in enumerate(masks):
        shape = ends[0][i].shape
        if mask is not None and (mask.device, mask.dtype, mask.shape) != (device, torch.bool, shape):
            raise ValueError(
                f"mask {i} is {mask.dtype} {tuple(mask.shape)} on {mask.device}: "
                f"expected torch.bool {tuple(shape)} on {device}"
            )


def _check_out(out: list[Tensor], first: list[Tensor], points: int) -> None:
    if len(out) != len(first):
        raise ValueError(f"{len(out)} tensors to fill for end points of {len(first)}: expected equally many")
    for i, (tensor, a) in enumerate(zip(out, first, strict=True)):
        shape = (points, *a.shape)
        if (tensor.device, tensor.dtype, tuple(tensor.shape)) != (a.device, a.dtype, shape):
            raise ValueError(
                f"out {i} is {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}: "
                f"expected {a.dtype} {shape} on {a.device}"
            )
        alike = points == 0 or tensor.stride()[1:] == a.stride() or same_order(tensor[0], a)
        if not alike or (points > 1 and tensor.stride(0) < a.numel()):
            raise ValueError(
                f"out {i} has strides {tensor.stride()}, its end points {a.stride()}: expected rows of these strides "
                "that do not overlap"
            )


implement(_library, "interpolate", __name__, "interpolate")


@torch.library.register_fake("sparselt::interpolate", lib=_library)
def _fake(*_arguments) -> None:
    return None
