"""masked_sgd: one step of SGD for all weights of a network, in which a masked weight and its momentum stay exactly 0.

For weight w, gradient g, momentum buffer b and mask bit k, with the meaning of `torch.optim.SGD`::

    d = ±g + weight_decay·w               (- under maximize)
    b = momentum·b + (1 - dampening)·d    (b = d in a parameter's first step; b is not touched where momentum is 0)
    u = d + momentum·b under nesterov, b otherwise, d where momentum is 0
    w = k·(shrink·w - lr·u),  b = k·b     (k = 0 gives 0.0, also against NaN and infinity)

Bytes moved a weight, float32 with momentum: 20 and the mask (one bit on a GPU, one byte on a CPU); the dense fused
optimizer moves 20, and 12 more when a mask is multiplied in. On a GPU a 32-byte sector in which no weight lives is
skipped.

Parameters and gradients stay where their owner put them. Momentum and mask are flat arenas, each parameter's part
padded to a multiple of `PAD` weights and in the physical order of the parameter's memory (channels-last needs no copy).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

PAD = 1024  # weights: 128 bytes of packed mask and one Triton program, so neither ever spans two parameters

# The columns of `hyperparameters`, one row a group. shrink multiplies the weight (1: no decoupled decay);
# weight_decay is the coupled one; keep is 1 - dampening; sign is -1 under maximize; nesterov is 0 or 1.
COLUMNS = ("lr", "momentum", "keep", "weight_decay", "shrink", "sign", "nesterov")

_library = torch.library.Library("sparselt", "FRAGMENT")
_library.define(
    "masked_sgd(Tensor(a!)[] parameters, Tensor[] gradients, Tensor(b!) momentum, Tensor mask, Tensor hyperparameters, "
    "int[] offsets, int[] groups, bool first_step, bool rewrite) -> ()"
)


def masked_sgd_(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    momentum: Tensor,
    mask: Tensor,
    hyperparameters: Tensor,
    *,
    offsets: Sequence[int] | None = None,
    groups: Sequence[int] | None = None,
    first_step: bool = False,
    rewrite: bool = True,
) -> None:
    """Update `parameters` and `momentum` in place.

    parameters, gradients: equally many tensors of one device and one dtype (float32, bfloat16; float64 on a CPU), each
        dense in memory, a gradient with its parameter's strides.
    momentum: [length], float32 (float64 for float64 parameters). The part of parameter i starts at offsets[i].
    mask: uint8, from `pack_mask`: [length] on a CPU, a byte a weight; [length / 8] on a GPU, a bit a weight.
    hyperparameters: [number of groups, 7], floating point, on the parameters' device: `COLUMNS`. On a GPU it is read
        by the kernel, so a schedule may rewrite it under a captured graph.
    offsets: where each parameter starts in the arenas, multiples of `PAD`; default: `padded_offsets` of the parameters.
    groups: the row of `hyperparameters` of each parameter; default: row 0.
    first_step: these parameters have no momentum yet, so it starts as the gradient.
    rewrite: False promises that masked weights are 0 already, so that the GPU may leave their memory alone.
    Raises ValueError or TypeError, before anything is written, naming the position of the offending parameter.
    """
    parameters, gradients = list(parameters), list(gradients)
    offsets = padded_offsets([p.numel() for p in parameters])[0] if offsets is None else list(offsets)
    groups = [0] * len(parameters) if groups is None else list(groups)
    _check(parameters, gradients, momentum, mask, hyperparameters, offsets, groups)
    with torch.no_grad():
        torch.ops.sparselt.masked_sgd(
            parameters, gradients, momentum, mask, hyperparameters, offsets, groups, first_step, rewrite
        )


def padded_offsets(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where parameters of these numbers of weights start in an arena, and the arena's length."""
    offsets, length = [], 0
    for size in sizes:
        offsets.append(length)
        length += -(-size // PAD) * PAD
    return offsets, length


def pack_mask(live: Tensor) -> Tensor:
    """The `mask` argument for a flat bool tensor over an arena (length a multiple of 8): bytes on a CPU, else bits."""
    return live.to(torch.uint8) if live.device.type == "cpu" else pack_bits(live)


def pack_bits(live: Tensor) -> Tensor:
    """Eight weights a byte, the first in the lowest bit. live: bool [length]; returns uint8 [length / 8]."""
    weights = 1 << torch.arange(8, device=live.device, dtype=torch.uint8)
    return (live.view(-1, 8).to(torch.uint8) * weights).sum(1, dtype=torch.uint8)


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one gapless stretch of memory, each exactly once, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted((st, si) for st, si in zip(tensor.stride(), tensor.shape, strict=True) if si != 1):
        if stride != expected:
            return tensor.numel() == 0
        expected *= size
    return True


def same_order(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape lay their elements out alike; strides of dimensions of size 1 mean nothing."""
    return all(s == t for s, t, size in zip(a.stride(), b.stride(), a.shape, strict=True) if size > 1)


def _check(parameters, gradients, momentum, mask, hyperparameters, offsets, groups) -> None:
    if not len(parameters) == len(gradients) == len(offsets) == len(groups):
        raise ValueError(
            f"{len(parameters)} parameters, {len(gradients)} gradients, {len(offsets)} offsets and {len(groups)} groups"
            ": expected one of each a parameter"
        )
    if not parameters:
        return
    device, dtype, length = parameters[0].device, parameters[0].dtype, momentum.numel()
    allowed = (torch.float32, torch.bfloat16) + ((torch.float64,) if device.type == "cpu" else ())
    if dtype not in allowed:
        raise TypeError(f"parameter 0 is {dtype} on {device}: expected one of {', '.join(map(str, allowed))}")
    for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
        if (p.device, p.dtype) != (device, dtype):
            raise TypeError(
                f"parameter {i} is {p.dtype} on {p.device}, parameter 0 is {dtype} on {device}: give one kind"
            )
        if (g.shape, g.device, g.dtype) != (p.shape, device, dtype):
            raise ValueError(
                f"gradient {i} is {g.dtype} {tuple(g.shape)} on {g.device}, "
                f"its parameter {dtype} {tuple(p.shape)} on {device}"
            )
        if not is_dense(p):
            raise ValueError(
                f"parameter {i} has strides {p.stride()}: its storage overlaps or has gaps; give a clone of it"
            )
        if not same_order(p, g):
            raise ValueError(
                f"gradient {i} has strides {g.stride()}, its parameter {p.stride()}: copy it to these first"
            )
        if offsets[i] % PAD or not 0 <= offsets[i] <= length - p.numel():
            raise ValueError(
                f"offset {offsets[i]} of parameter {i}: expected a multiple of {PAD} inside the arena of {length}"
            )
        if not 0 <= groups[i] < len(hyperparameters):
            raise ValueError(f"parameter {i} is in group {groups[i]} of {len(hyperparameters)}")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    bytes_of_mask = length if device.type == "cpu" else length // 8
    for name, tensor, kind, shape in (
        ("momentum", momentum, wide, (length,)),
        ("mask", mask, torch.uint8, (bytes_of_mask,)),
        ("hyperparameters", hyperparameters, hyperparameters.dtype, (len(hyperparameters), len(COLUMNS))),
    ):
        if (tensor.device, tensor.dtype, tuple(tensor.shape)) != (device, kind, shape) or not tensor.is_contiguous():
            raise ValueError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}: "
                f"expected contiguous {kind} {shape} on {device}"
            )
    if not hyperparameters.is_floating_point():
        raise TypeError(f"hyperparameters are {hyperparameters.dtype}: expected a floating-point tensor")


@torch.library.impl(_library, "masked_sgd", "CPU")
@torch.library.impl(_library, "masked_sgd", "CUDA")
def launch(parameters: list[Tensor], *arguments) -> None:
    """The operator itself, unchecked: the positional arguments of its schema.

    For an eager caller that has checked them: torch's dispatcher takes 14 µs for 60 tensors, as long as all the rest.
    """
    if parameters and parameters[0].is_cuda:
        from .gpu import step
    else:
        from .cpu import step
    step(parameters, *arguments)
    torch.autograd.graph.increment_version(parameters)


@torch.library.register_fake("sparselt::masked_sgd", lib=_library)
def _fake(*_arguments) -> None:
    return None
