"""The arithmetic of a process that trains or evaluates networks, and its number of CPU threads."""

import contextlib
from collections.abc import Iterator

import torch


def set_arithmetic() -> None:
    """Sets this process's arithmetic. Call it before its threads and before CUDA start.

    Numbers below 1e-38 become zero. Dead units and tiny gradients leave such numbers in an optimizer's averages, and on
    an Intel core Adam's pass then takes eight times as long. On a GPU, float32 is float32: cuDNN's default, TF32,
    convolves with 10 bits of the mantissa.
    """
    torch.set_flush_denormal(True)
    torch.backends.cudnn.allow_tf32 = False


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Runs torch on `count` threads inside the block, and on as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
