"""The lists of live weights: which weights a channel adds up, and where in the image each of them looks."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._vectors import BLOCK


class Pattern(NamedTuple):
    """The live weights of a convolution, see `pattern_of`. All tensors int64, on the CPU.

    starts: [out_channels, kernel taps + 1]: where the weights of a channel and tap start in `weights`.
    weights: [4, live]: their places in the flattened weight, input channels, and rows and columns in the kernel.
    back_starts, back_weights: the same for the gradient of the input, with input and output channels exchanged.
    shape: of the weight: output and input channels, height, width of the kernel. stride: of the convolution.
    """

    starts: Tensor
    weights: Tensor
    back_starts: Tensor
    back_weights: Tensor
    shape: tuple[int, ...]
    stride: int


def pattern_of(live: Tensor, stride: int = 1) -> Pattern:
    """The lists for a mask. It takes milliseconds, so make it once a mask.

    live: bool [out_channels, in_channels, height, width] of a convolution, or [out, in] of a linear layer.
    Raises TypeError for other masks, ValueError for a stride below 1.
    """
    if live.dtype != torch.bool or live.dim() not in (2, 4):
        raise TypeError(f"live is {live.dtype} {tuple(live.shape)}: expected torch.bool [out, in, height, width]")
    if not isinstance(stride, int) or stride < 1:
        raise ValueError(f"stride is {stride!r}: expected a whole number from 1 on, for both directions")
    if not live.numel():
        raise ValueError(f"live is {tuple(live.shape)}, without a weight: expected one channel or more on each side")
    mask = live.detach().cpu().numpy().reshape(*live.shape[:2], *(live.shape[2:] or (1, 1)))
    forward = _lists(mask, range(mask.shape[2]), range(mask.shape[3]))
    order = [tap_order(size, stride) for size in mask.shape[2:]]
    starts, (places, *others) = _lists(mask.transpose(1, 0, 2, 3), *order)
    # `places` count in the transposed weight.
    outs, taps = len(mask), mask.shape[2] * mask.shape[3]
    c, rest = np.divmod(places, outs * taps)
    o, tap = np.divmod(rest, taps)
    back = starts, np.stack([(o * mask.shape[1] + c) * taps + tap, *others])
    ours, theirs = ([torch.from_numpy(array) for array in lists] for lists in (forward, back))
    return Pattern(ours[0], ours[1], theirs[0], theirs[1], mask.shape, stride)


@lru_cache
def tap_order(size: int, stride: int) -> list[int]:
    """The order of kernel rows in which those that reach one row of the input are always neighbours."""
    return sorted(range(size), key=lambda tap: (tap % stride, tap))


def _lists(mask: np.ndarray, row_order, column_order) -> tuple[np.ndarray, np.ndarray]:
    outs, ins, height, width = mask.shape
    rows, columns = np.array(row_order), np.array(column_order)
    ordered = mask[:, :, rows][:, :, :, columns].transpose(0, 2, 3, 1)
    starts = np.zeros((outs, height * width + 1), np.int64)
    ends = ordered.sum(3).reshape(-1).cumsum().reshape(outs, -1)
    starts[:, 1:] = ends
    starts[1:, 0] = ends[:-1, -1]
    o, row, column, c = np.nonzero(ordered)
    row, column = rows[row], columns[column]
    return starts, np.stack([((o * ins + c) * height + row) * width + column, c, row, column]).astype(np.int64)


class Side(NamedTuple):
    """One direction of a convolution on images of one size: what the compiled loops read.

    offsets: int64 [live], bytes from the first tile of a position's window. rows, columns: int64 [size, 3]: for each
    position of the result the first and the last + 1 of the taps that lie in the image, and the window's start.
    shape: height, width and channels of what is read, then of the result; then the kernel's width.
    """

    starts: np.ndarray
    places: np.ndarray
    offsets: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    shape: tuple[int, ...]


def forward_side(pattern: Pattern, image: Sequence[int], padding: int, itemsize: int) -> Side:
    """From the input, an image of height, width and channels, to the output."""
    outs, _, *kernel = pattern.shape
    _, width, ins = image
    places, c, ky, kx = pattern.weights.numpy()
    offsets = ((ky * width + kx) * ins + c) * (BLOCK * itemsize)
    out = [output_size(n, k, pattern.stride, padding) for n, k in zip(image[:2], kernel, strict=True)]
    rows, columns = (_window(*sizes, pattern.stride, padding) for sizes in zip(out, image[:2], kernel, strict=True))
    shape = (*image, out[0], out[1], outs, kernel[1])
    return Side(pattern.starts.numpy(), places, offsets, rows, columns, shape)


def backward_side(pattern: Pattern, image: Sequence[int], padding: int, itemsize: int) -> Side:
    """From the gradient of the output to that of the input."""
    outs, _, *kernel = pattern.shape
    out = [output_size(n, k, pattern.stride, padding) for n, k in zip(image[:2], kernel, strict=True)]
    places, o, ky, kx = pattern.back_weights.numpy()
    back_y, back_x = ky // pattern.stride, kx // pattern.stride
    offsets = (o - (back_y * out[1] + back_x) * outs) * (BLOCK * itemsize)
    rows, columns = (
        _window_back(*sizes, pattern.stride, padding) for sizes in zip(image[:2], out, kernel, strict=True)
    )
    shape = (out[0], out[1], outs, *image, kernel[1])
    return Side(pattern.back_starts.numpy(), places, offsets, rows, columns, shape)


def output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Rows or columns of the output."""
    return (size + 2 * padding - kernel) // stride + 1


@lru_cache(maxsize=256)
def _window(out: int, size: int, kernel: int, stride: int, padding: int) -> np.ndarray:
    first = np.arange(out) * stride - padding
    return np.stack([np.maximum(0, -first), np.minimum(kernel, size - first), first], 1).astype(np.int64)


@lru_cache(maxsize=256)
def _window_back(size: int, out: int, kernel: int, stride: int, padding: int) -> np.ndarray:
    window, order = np.zeros((size, 3), np.int64), tap_order(kernel, stride)
    for y in range(size):
        reach = [j for j, k in enumerate(order) if (y + padding - k) in range(0, out * stride, stride)]
        if reach:
            window[y] = reach[0], reach[-1] + 1, (y + padding) // stride
    return window


def pool_sides(height: int, width: int, channels: int, itemsize: int) -> tuple[Side, Side]:
    """Global average pooling as a convolution that gathers every position, and back as one that spreads the gradient.

    Each value is 1 / (height · width): of height · width · channels weights in the first, of `channels` in the second.
    """
    tile = BLOCK * itemsize
    area, c, one = height * width, np.arange(channels), np.array([[0, 1, 0]])
    ahead = (np.arange(area) * channels + c[:, None]).reshape(-1) * tile
    rows, columns = (np.tile(one, (size, 1)) for size in (height, width))
    return (
        Side(np.stack([c, c + 1], 1) * area, ahead, ahead, one, one, (height, width, channels, 1, 1, channels, 1)),
        Side(np.stack([c, c + 1], 1), c, c * tile, rows, columns, (1, 1, channels, height, width, channels, 1)),
    )
