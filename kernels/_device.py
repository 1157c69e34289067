"""The device on which a Triton kernel is launched."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def on_device_of(tensor: Tensor) -> AbstractContextManager:
    """Makes the tensor's device current, where Triton launches. Nothing for CPU tensors (Triton's interpreter)."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
