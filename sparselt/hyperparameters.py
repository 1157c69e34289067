"""The hyperparameters of an optimizer's groups, floats or tensors, as the rows that the kernel reads."""

import math
from numbers import Real

import torch
from torch import Tensor

from sparselt.errors import SettingError
from sparselt.kernels.masked_sgd import COLUMNS

NUMBERS = ("lr", "momentum", "dampening", "weight_decay")  # each a float or a tensor of one element
FLAGS = ("nesterov", "maximize", "decoupled_weight_decay")


class Hyperparameters:
    """`rows`: [groups, 7] on the device, float64 on a CPU, else float32. Filled by `send`.

    A tensor on the GPU is copied there on the GPU, so that nothing waits for it and a CUDA graph replays the copy.
    """

    def __init__(self, groups: list[dict], device: torch.device):
        kind = torch.float64 if device.type == "cpu" else torch.float32
        self.rows = torch.zeros(len(groups), len(COLUMNS), dtype=kind, device=device)
        self._cells = [[self.rows[g, c] for c in range(len(COLUMNS))] for g in range(len(groups))]
        self._sent: list | None = None

    def send(self, groups: list[dict]) -> None:
        """Brings `rows` up to date with the groups, which are only read."""
        rows = [_row(group) for group in groups]
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
            if any(_is_on_gpu(group[key]) for key in NUMBERS):
                for cell, value in zip(own, _columns(group, _as_given), strict=True):
                    if _is_on_gpu(value):
                        cells.append(cell)
                        values.append(value.detach().view(()))
        if cells:
            torch._foreach_copy_(cells, values)


def has_momentum(group: dict) -> bool:
    """Whether the group keeps momentum. A tensor counts as nonzero, as nobody should wait for its value."""
    return isinstance(group["momentum"], Tensor) or group["momentum"] != 0


def check_group(group: dict) -> None:
    """What `torch.optim.SGD` refuses of its defaults, for every group."""
    for key in NUMBERS:
        if isinstance(group[key], Tensor) and group[key].numel() != 1:
            raise SettingError(f"{key} is a tensor of {group[key].numel()} elements: expected 1")
        if not isinstance(group[key], Tensor | Real):
            raise SettingError(f"{key} is {group[key]!r}: expected a number, or a tensor of one element")
    for key in ("lr", "momentum", "weight_decay"):
        if not 0 <= group[key] < math.inf:
            raise SettingError(f"{key} is {group[key]}: expected 0 or more, and finite")
    if not -math.inf < group["dampening"] < math.inf:
        raise SettingError(f"dampening is {group['dampening']}: expected a finite number")
    if group["decoupled_weight_decay"] and not group.get("initial_lr", group["lr"]) > 0:
        raise SettingError(
            "decoupled_weight_decay divides by the first lr, which is 0: give the base learning rate as lr"
        )


def check_nesterov(group: dict) -> None:
    """For the defaults, and groups that ask for it: one without momentum may inherit nesterov, to no effect."""
    if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
        raise SettingError("nesterov needs a momentum above 0 and dampening 0")


def _as_given(value: float | Tensor) -> float | Tensor:
    return value


def _as_float(value: float | Tensor) -> float:
    """1 for a tensor on the GPU, which `_copy_tensors` sees to."""
    return value if isinstance(value, float) else 1.0 if _is_on_gpu(value) else float(value)


def _row(group: dict) -> list[float]:
    return _columns(group, _as_float)


def _columns(group: dict, number) -> list[float | Tensor]:
    """`COLUMNS` of one group, each hyperparameter taken through `number`."""
    lr, decay, decoupled = number(group["lr"]), number(group["weight_decay"]), group["decoupled_weight_decay"]
    return [
        lr,
        number(group["momentum"]),
        1 - number(group["dampening"]),
        0.0 if decoupled else decay,
        1 - lr / number(group["initial_lr"]) * decay if decoupled else 1.0,
        -1.0 if group["maximize"] else 1.0,
        1.0 if group["nesterov"] else 0.0,
    ]


def _is_on_gpu(value: float | Tensor) -> bool:
    return isinstance(value, Tensor) and value.is_cuda
