"""masked_sgd: one step of SGD for all weights of a network, in which a masked weight and its momentum stay exactly 0.

For weight w, gradient g, momentum buffer b and mask bit k, with the meaning of `torch.optim.SGD`::

    d = ±g / grad_scale + weight_decay·w  (- under maximize)
    b = momentum·b + (1 - dampening)·d    (b = d in a parameter's first step; b is not touched where momentum is 0)
    u = d + momentum·b under nesterov, b otherwise, d where momentum is 0
    w = k·(shrink·w - lr·u),  b = k·b     (k = 0 gives 0.0, also against NaN and infinity)

Bytes moved a weight, float32 with momentum: 20 and the mask (one bit on a GPU; on a CPU one byte, and none in blocks
that live whole); the dense fused optimizer moves 20, and 12 more when a mask is multiplied in. With live momentum it is
12 and 8·density. On a GPU a 32-byte sector in which no weight lives is skipped, on a CPU a block of `PAD` weights.

Parameters and gradients stay where their owner put them. Momentum and mask are flat arenas, each parameter's part
padded to a multiple of `PAD` weights and in the physical order of the parameter's memory (channels-last needs no copy).
Networks of one launch are no different from layers: their parameters stand one after the other, with groups of their
own.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .._tensors import addresses_of
from ._check import check
from .layout import (
    PAD,
    Layout,
    block_table,
    blocks_in,
    first_overlap,
    is_dense,
    live_places,
    pack_bits,
    pack_mask,
    padded_offsets,
    same_order,
    unpack_mask,
)

__all__ = [
    "COLUMNS",
    "PAD",
    "Layout",
    "block_table",
    "blocks_in",
    "first_overlap",
    "is_dense",
    "launch",
    "live_places",
    "masked_sgd_",
    "pack_bits",
    "pack_mask",
    "padded_offsets",
    "same_order",
    "unpack_mask",
]

# The columns of `hyperparameters`, one row a group. shrink multiplies the weight (1: no decoupled decay);
# weight_decay is the coupled one; keep is 1 - dampening; sign is -1 under maximize; nesterov is 0 or 1.
COLUMNS = ("lr", "momentum", "keep", "weight_decay", "shrink", "sign", "nesterov")

_library = torch.library.Library("sparselt", "FRAGMENT")
_library.define(
    "masked_sgd(Tensor(a!)[] parameters, Tensor[] gradients, Tensor(b!) momentum, Tensor mask, Tensor hyperparameters, "
    "int[] offsets, int[] groups, bool first_step, bool rewrite, Tensor? blocks=None, bool live_momentum=False, "
    "Tensor(c!)? begun=None, Tensor? grad_scale=None, Tensor? found_inf=None) -> ()"
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
    blocks: Tensor | None = None,
    live_momentum: bool = False,
    begun: Tensor | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Update `parameters` and `momentum` in place.

    parameters, gradients: equally many tensors of one device and one dtype (float32, bfloat16; float64 on a CPU), each
        dense in memory, a gradient with its parameter's strides.
    momentum: [length], float32 (float64 for float64 parameters). The part of parameter i starts at offsets[i]. With
        `live_momentum`, of the length that `block_table` says.
    mask: uint8, from `sparselt.kernels.masked_sgd.pack_mask`: [length] on a CPU, a byte a weight; [length / 8] on a
        GPU, a bit a weight.
    hyperparameters: [number of groups, 7], floating point, on the parameters' device: `COLUMNS`. On a GPU it is read
        by the kernel, so a schedule may rewrite it under a captured graph.
    offsets: where each parameter starts in the arenas, multiples of `PAD`; default: `padded_offsets` of the parameters.
    groups: the row of `hyperparameters` of each parameter; default: row 0.
    first_step: these parameters have no momentum yet, so it starts as the gradient.
    rewrite: False promises that masked weights are 0 already, so that their memory may be left alone.
    blocks: int64 [length / PAD, 2], from `block_table`. A CPU needs no mask for blocks that live whole, or not at all.
    live_momentum: `momentum` holds live weights only, where `blocks` says. The results are the same to the bit.
    begun: uint8 [length / PAD], 0 where a block has no momentum yet, so that this is its first step; set to 1 by a step
        with momentum that is not skipped. It spares the host from knowing which steps were skipped.
    grad_scale: one float; gradients are divided by it. They themselves stay as they are.
    found_inf: one float; unless it is 0 nothing at all is changed. Both are read on the device.
    Raises ValueError or TypeError, before anything is written, naming the position of the offending parameter.
    """
    parameters, gradients = list(parameters), list(gradients)
    offsets = padded_offsets([p.numel() for p in parameters])[0] if offsets is None else list(offsets)
    groups = [0] * len(parameters) if groups is None else list(groups)
    options = (blocks, live_momentum, begun, grad_scale, found_inf)
    check(parameters, gradients, momentum, mask, hyperparameters, offsets, groups, *options)
    with torch.no_grad():
        torch.ops.sparselt.masked_sgd(
            parameters, gradients, momentum, mask, hyperparameters, offsets, groups, first_step, rewrite, *options
        )


def launch(layout: Layout, dtype: torch.dtype, addresses: np.ndarray, momentum: Tensor, *arguments) -> None:
    """The operator itself, unchecked: arguments are `mask` and `hyperparameters`, then `first_step` to `found_inf`.

    For an eager caller that has checked them: torch's dispatcher takes 14 µs for 60 tensors, as long as all the rest.
    addresses: of the parameters, all of that dtype, then of their gradients; a gradient's 0 leaves its parameter alone.
    """
    if momentum.is_cuda:
        from .gpu import step
    else:
        from .cpu import step
    step(layout, dtype, addresses, momentum, *arguments)


@torch.library.impl(_library, "masked_sgd", "CPU")
@torch.library.impl(_library, "masked_sgd", "CUDA")
def _operator(
    parameters,
    gradients,
    momentum,
    mask,
    hyperparameters,
    offsets,
    groups,
    first_step,
    rewrite,
    blocks=None,
    live_momentum=False,
    begun=None,
    grad_scale=None,
    found_inf=None,
) -> None:
    if not parameters:
        return
    sizes = [p.numel() for p in parameters]
    cuda = parameters[0].is_cuda
    layout = (
        _layout(parameters[0].device, tuple(sizes), *map(tuple, (offsets, groups)))
        if cuda
        else Layout(sizes, offsets, groups)
    )
    options = (first_step, rewrite, blocks, live_momentum, begun, grad_scale, found_inf)
    launch(layout, parameters[0].dtype, addresses_of(parameters, gradients), momentum, mask, hyperparameters, *options)
    torch.autograd.graph.increment_version(parameters)


@lru_cache(maxsize=64)
def _layout(device: torch.device, sizes: tuple, offsets: tuple, groups: tuple) -> Layout:
    """A layout kept for the next call, because its tables have been sent to `device`."""
    return Layout(sizes, offsets, groups)


@torch.library.register_fake("sparselt::masked_sgd", lib=_library)
def _fake(*_arguments, **_options) -> None:
    return None
