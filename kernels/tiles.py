"""The layout of `sparse_conv2d`: [blocks, height, width, channels, 64], with 64 images innermost.

The numbers of one position and channel in 64 images are a tile. A last block that is not full has zeros.
"""

from torch import Tensor

from ._vectors import BLOCK

__all__ = ["BLOCK", "enter", "leave"]


def enter(images: Tensor, out: Tensor | None = None) -> Tensor:
    """The tiles of images [N, channels, height, width], in any memory order. out: is filled and returned, if given."""
    count, (channels, height, width) = len(images), images.shape[1:]
    if out is None:
        out = images.new_empty(-(-count // BLOCK), height, width, channels, BLOCK)
    whole = count // BLOCK
    if whole:
        out[:whole].copy_(images[: whole * BLOCK].view(whole, BLOCK, channels, height, width).permute(0, 3, 4, 2, 1))
    if count % BLOCK:
        out[whole, ..., : count % BLOCK].copy_(images[whole * BLOCK :].permute(2, 3, 1, 0))
        out[whole, ..., count % BLOCK :].zero_()
    return out


def leave(tiles: Tensor, count: int, channels_last: bool = False) -> Tensor:
    """The first `count` images of tiles, [count, channels, height, width], contiguous or channels last."""
    if channels_last:
        return tiles.permute(0, 4, 1, 2, 3).reshape(-1, *tiles.shape[1:4])[:count].permute(0, 3, 1, 2)
    return tiles.permute(0, 4, 3, 1, 2).reshape(-1, tiles.shape[3], *tiles.shape[1:3])[:count].contiguous()
