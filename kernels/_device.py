"""Where a Triton kernel is launched."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def on_device_of(tensor: Tensor) -> AbstractContextManager:
    """Triton launches on the current device, which need not be the tensor's; its interpreter takes CPU tensors."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
