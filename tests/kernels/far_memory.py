"""Tensors of more elements than 32 bits count, of whose memory only the pages that are touched exist."""

import mmap

import torch

FAR = 2**31 + 1500  # elements


def far_tensor(count: int = FAR, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    return torch.frombuffer(mmap.mmap(-1, count * dtype.itemsize, flags=flags), dtype=dtype)
