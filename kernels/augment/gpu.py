"""augment on a GPU: one Triton launch, one program for 1,024 output values of one image."""

from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .._device import on_device_of
from .._tables import capturing, finish, send
from ..philox import CROP, FLIP
from . import affine, empty_like_output

BLOCK = 1024


def augment(
    images: Tensor,
    indices: Tensor,
    seed: int,
    epoch: int,
    seed_data: Tensor | None,
    epoch_data: Tensor | None,
    padding: int,
    flip: bool,
    mean: list[float],
    std: list[float],
    scale: float,
    channels_last: bool,
    dtype: torch.dtype,
) -> Tensor:
    """The operator, unchecked."""
    out = empty_like_output(images, channels_last, dtype)
    if not out.numel():
        return out
    count, channels, height, width = images.shape
    grid = (count, triton.cdiv(channels * height * width, BLOCK))
    with on_device_of(out):
        augment_kernel[grid](
            images,
            *images.stride(),
            indices,
            _normalization(images.device, tuple(mean), tuple(std), scale),
            out,
            seed,
            epoch,
            seed_data,
            epoch_data,
            padding,
            channels,
            height,
            width,
            FLIP_HALF=flip,
            CHANNELS_LAST=channels_last,
            CROP_STREAM=CROP,
            FLIP_STREAM=FLIP,
            BLOCK=BLOCK,
            enable_fp_fusion=True,
        )
    return out


# By default Triton compiles another kernel for some values of an integer, and makes a Python integer of a 1. The kernel
# calls `padding.to`, which a Python integer does not have.
@triton.jit(do_not_specialize=["seed", "epoch", "padding"])
def augment_kernel(
    images,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    indices,
    normalization,  # float32 [2, channels]: factors, terms
    out,
    seed: tl.int64,
    epoch: tl.int32,
    seed_data,  # int64 [] to read instead of seed, or None; epoch_data likewise
    epoch_data,
    padding,
    channels,
    height,
    width,
    FLIP_HALF: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    CROP_STREAM: tl.constexpr,
    FLIP_STREAM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    size = channels * height * width
    inside = at < size
    if CHANNELS_LAST:
        c, x, y = at % channels, at // channels % width, at // (channels * width)
    else:
        x, y, c = at % width, at // width % height, at // (width * height)
    if seed_data is not None:
        seed = tl.load(seed_data)
    if epoch_data is not None:
        epoch = tl.load(epoch_data).to(tl.int32)
    sample = tl.load(indices + image).to(tl.int32)
    offsets = (2 * padding + 1).to(tl.uint32)
    word0, word1, _, _ = tl.philox(seed, sample, epoch, CROP_STREAM, 0)
    row = tl.umulhi(word0, offsets).to(tl.int32) - padding
    column = tl.umulhi(word1, offsets).to(tl.int32) - padding
    if FLIP_HALF:
        coin, _, _, _ = tl.philox(seed, sample, epoch, FLIP_STREAM, 0)
        x = tl.where((coin >> 31) == 1, width - 1 - x, x)
    x += column
    y += row
    seen = inside & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    source = images + image * stride_n + c * stride_c + y * stride_y + x * stride_x
    pixel = tl.load(source, mask=seen, other=0).to(tl.float32)
    factor = tl.load(normalization + c, mask=inside, other=0.0)
    term = tl.load(normalization + channels + c, mask=inside, other=0.0)
    tl.store(out + image * size + at, (factor * pixel + term).to(out.dtype.element_ty), mask=inside)


def _normalization(device: torch.device, *normalization) -> Tensor:
    """Cached, except during the capture of a graph, where only a replay fills the tensor."""
    if capturing(device):
        return send(np.array(affine(*normalization), np.float32), device)
    return _kept(device, *normalization)


@lru_cache(maxsize=64)
def _kept(device: torch.device, *normalization) -> Tensor:
    found = torch.tensor(affine(*normalization), dtype=torch.float32, device=device)
    finish(device)
    return found
