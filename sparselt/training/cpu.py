"""How many CPU threads compute while a network trains or is evaluated."""

import contextlib
from collections.abc import Iterator

import torch


def flush_denormals() -> None:
    """Makes numbers below 1e-38 zero, in this thread and those that it starts later.

    Dead units and tiny gradients leave such numbers in an optimizer's averages. On an Intel core, Adam's pass then
    takes eight times as long.
    """
    torch.set_flush_denormal(True)


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Runs torch on `count` threads inside the block, and on as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
