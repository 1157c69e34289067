"""The hyperparameters of an optimizer's groups, floats or tensors, as the rows that the kernel reads."""

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import cast

import torch
from torch import Tensor

from sparselt.errors import SettingError

Number = Callable[[float | Tensor], float]


class Hyperparameters:
    """`rows`: [groups, columns] on the device, float64 on a CPU, else float32. Filled by `send`.

    columns: makes a group's row; its second argument converts each hyperparameter.
    numbers: the options that may be tensors. A tensor on the GPU is copied into `rows` there, so the host does not wait
        for it and a CUDA graph replays the copy.
    """

    def __init__(
        self,
        columns: Callable[[dict, Number], Sequence],
        numbers: Sequence[str],
        groups: list[dict],
        width: int,
        device: torch.device,
    ):
        kind = torch.float64 if device.type == "cpu" else torch.float32
        self.rows = torch.zeros(len(groups), width, dtype=kind, device=device)
        self._columns, self._numbers = columns, numbers
        self._cells = [list(row.unbind()) for row in self.rows]
        self._sent: list | None = None

    def send(self, groups: list[dict]) -> None:
        """Brings `rows` up to date with the groups, which are only read."""
        try:
            rows = [self._columns(group, _as_float) for group in groups]
        except (TypeError, ValueError):
            for group in groups:
                check_numbers(group, self._numbers)  # names the option
            raise
        if rows != self._sent:
            on_gpu = self.rows.is_cuda
            if on_gpu and torch.cuda.is_current_stream_capturing():
                raise SettingError("hyperparameters changed while a CUDA graph is captured: call refresh() before")
            self.rows.copy_(torch.tensor(rows, dtype=self.rows.dtype, pin_memory=on_gpu), non_blocking=True)
            self._sent = rows
        if self.rows.is_cuda:
            self._copy_tensors(groups)

    def _copy_tensors(self, groups: list[dict]) -> None:
        cells, values = [], []
        for own, group in zip(self._cells, groups, strict=True):
            if any(_is_on_gpu(group[key]) for key in self._numbers):
                for cell, value in zip(own, self._columns(group, _AS_IT_IS), strict=True):
                    if isinstance(value, Tensor) and value.is_cuda:
                        cells.append(cell)
                        values.append(value.detach().view(()))
        if cells:
            torch._foreach_copy_(cells, values)


# Columns only do arithmetic with numbers, so they also work with tensors.
_AS_IT_IS = cast(Number, lambda value: value)


def check_numbers(group: dict, names: Sequence[str]) -> None:
    """Raises SettingError unless each of these options is a number or a tensor of one element."""
    for name in names:
        if isinstance(group[name], Tensor) and group[name].numel() != 1:
            raise SettingError(f"{name} is a tensor of {group[name].numel()} elements: expected 1")
        if not isinstance(group[name], Tensor | Real):
            raise SettingError(f"{name} is {group[name]!r}: expected a number, or a tensor of one element")


def check_flags(group: dict, names: Sequence[str]) -> None:
    """Raises SettingError unless each of these options is True or False."""
    for name in names:
        if not isinstance(group[name], bool):
            raise SettingError(f"{name} is {group[name]!r}: expected True or False")


def check_not_negative(group: dict, *names: str) -> None:
    """Raises a SettingError for an option below 0, infinite or NaN."""
    for name in names:
        if not 0 <= group[name] < math.inf:
            raise SettingError(f"{name} is {group[name]}: expected 0 or more, and finite")


def _as_float(value: float | Tensor) -> float:
    """The number; 1 for a tensor on the GPU, because `_copy_tensors` overwrites it there."""
    return value if isinstance(value, float) else 1.0 if _is_on_gpu(value) else float(value)


def _is_on_gpu(value: float | Tensor) -> bool:
    return isinstance(value, Tensor) and value.is_cuda
