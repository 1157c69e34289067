"""The layers of `SparseStep`: each adds its jobs, forward and backward, to a tape that every step runs."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sparselt.errors import SettingError
from sparselt.kernels.sparse_conv2d import cpu, norm
from sparselt.kernels.sparse_conv2d.lists import Side, backward_side, forward_side, pattern_of
from sparselt.kernels.tiles import BLOCK
from sparselt.models.residual import Block


class Job(Protocol):
    """Work on fixed memory."""

    def run(self) -> None: ...


class Tape:
    """The jobs of a step in order, and the memory on which they work.

    model: whose parameters and buffers are used where they are. live: bool, by name of the parameter, for the weights
    under a mask. count: images of a batch. dtype: of the activations.
    """

    def __init__(self, model: nn.Module, live: Mapping[str, Tensor], count: int, dtype: torch.dtype):
        self.count, self.dtype = count, dtype
        self.gradients: dict[Tensor, Tensor] = {p: torch.zeros_like(p) for p in model.parameters()}
        for name, parameter in model.named_parameters():
            if self.gradients[parameter].stride() != parameter.stride():
                raise SettingError(
                    f"{name} has strides {parameter.stride()}, with gaps: expected a parameter that is dense in memory"
                )
        self.number = np.float64 if next(iter(self.gradients)).dtype == torch.float64 else np.float32
        self.ahead: list[Job] = []
        self.back: list[Job] = []
        self.collected: list[tuple[Tensor, np.ndarray, np.ndarray]] = []
        self._live = {id(parameter): live[name] for name, parameter in model.named_parameters() if name in live}
        self._scratch: dict[tuple, Tensor] = {}

    def tiles(self, height: int, width: int, channels: int) -> Tensor:
        """Tiles of a batch, zero."""
        return torch.zeros(-(-self.count // BLOCK), height, width, channels, BLOCK, dtype=self.dtype)

    def scratch(self, like: Tensor, number: int) -> Tensor:
        """Memory of this shape that all layers share."""
        return self._scratch.setdefault((like.shape, number), torch.zeros_like(like))

    def values(self, weight: Tensor, side: Side) -> np.ndarray:
        """The values of the live weights in the order of the lists. Every step collects them again."""
        values = np.empty(len(side.places), self.number)
        self.collected.append((weight.detach(), side.places, values))
        return values

    def live(self, weight: Tensor) -> Tensor:
        """Which weights are live."""
        return self._live.get(id(weight), torch.ones_like(weight, dtype=torch.bool))


class Convolution:
    """A convolution of the tiles x, or a linear layer on one position. Without bias."""

    def __init__(self, tape: Tape, module: nn.Conv2d | nn.Linear, x: Tensor):
        self.tape, self.x, self.weight = tape, x, module.weight
        stride, padding = (module.stride[0], int(module.padding[0])) if isinstance(module, nn.Conv2d) else (1, 0)
        pattern, image = pattern_of(tape.live(self.weight), stride), tuple(x.shape[1:4])
        sides = (side(pattern, image, padding, tape.dtype.itemsize) for side in (forward_side, backward_side))
        in_memory = _places_in_memory(self.weight)
        self._side, self._side_back = (side._replace(places=in_memory[side.places]) for side in sides)
        self.out = tape.tiles(*self._side.shape[3:6])

    def forward(self, **options) -> None:
        """options: of `sparselt.kernels.sparse_conv2d.cpu.gather`."""
        values = self.tape.values(self.weight, self._side)
        self.tape.ahead.append(cpu.gather(self._side, self.x, values, self.out, **options))

    def backward(self, d: Tensor, out: Tensor, **options) -> None:
        """Backward pass: d is the gradient of `self.out`; adds the job for the gradient of x."""
        values = self.tape.values(self.weight, self._side_back)
        self.tape.back.append(cpu.gather(self._side_back, d, values, out, **options))

    def weight_gradient(self, d: Tensor) -> None:
        self.tape.back.append(cpu.dots(self._side, self.x, d, self.tape.gradients[self.weight]))


def _places_in_memory(weight: Tensor) -> np.ndarray:
    """int64 [elements]: where each element of the flattened weight lies in memory; channels last permutes them."""
    indices = np.indices(weight.shape).reshape(weight.dim(), -1)
    return np.tensordot(np.array(weight.stride()), indices, 1)


class Rectified:
    """A linear layer with bias and ReLU."""

    def __init__(self, tape: Tape, module: nn.Linear, x: Tensor):
        self.tape, self.bias, self.layer = tape, module.bias, Convolution(tape, module, x)
        self.out, channels = self.layer.out, module.out_features
        self._sums = np.zeros((len(self.out), 3, channels))
        self.layer.forward()
        bias, ones = self.bias.detach().numpy(), np.ones(channels, tape.number)
        tape.ahead.append(norm.combine(self.out, self.out, None, ones, None, bias, relu=True, count=tape.count))

    def onward(self) -> dict:
        """Options for the layer that computes the gradient of `out`, so that it applies this layer's ReLU in the same
        pass.
        """
        return {"mask": self.out, "sums": self._sums}

    def weight_gradients(self, d: Tensor) -> None:
        """Backward pass: d is the gradient before ReLU; the job that computes it also leaves its sums."""
        self.tape.back.append(Sum(self._sums[:, 0], self.tape.gradients[self.bias]))
        self.layer.weight_gradient(d)


class Sum:
    """The job that adds up the rows of an array into a bias's gradient."""

    def __init__(self, rows: np.ndarray, gradient: Tensor):
        self._rows, self._gradient = rows, gradient.numpy()

    def run(self) -> None:
        self._gradient[:] = self._rows.sum(0)


class Normed:
    """A convolution with its batch norm: y = convolution(x), then scale·y + term.

    add_to: another norm, to whose term this one adds its own.
    """

    def __init__(self, tape: Tape, conv: nn.Conv2d, module: nn.BatchNorm2d, x: Tensor, add_to: "Normed | None" = None):
        self.tape, self.module, self.layer = tape, module, Convolution(tape, conv, x)
        self.y = self.out = self.layer.out
        blocks, height, width, channels, _ = self.y.shape
        self._count = tape.count * height * width
        self.sums = np.zeros((blocks * height, 3, channels))
        self._mean, self._inverse = np.zeros((2, channels))
        self.scale, self.term, self._p, self._q, self._t = np.zeros((5, channels), tape.number)
        if add_to is not None:
            self.term = add_to.term
        self.layer.forward(sums=self.sums)
        assert module.running_mean is not None and module.running_var is not None
        weights = module.weight.detach(), module.bias.detach(), self._mean, self._inverse, self.scale, self.term
        running = module.running_mean, module.running_var, np.array([module.eps, module.momentum])
        tape.ahead.append(norm.statistics(self.sums, *weights, *running, count=self._count, add=add_to is not None))

    def activate(self) -> None:
        """Adds ReLU: `out`."""
        self.out, tape = torch.zeros_like(self.y), self.tape
        tape.ahead.append(
            norm.combine(self.out, self.y, None, self.scale, None, self.term, relu=True, count=tape.count)
        )

    def onward(self) -> dict:
        """Options for the convolution that computes the gradient of `out`, so that it applies this norm's ReLU in the
        same pass.
        """
        return {"mask": self.out, "a": self.y, "sums": self.sums}

    def backward(self, d: Tensor, out: Tensor, sums: np.ndarray | None = None, which: int = 1) -> None:
        """From d, the gradient before ReLU, to that of y, and on to that of the convolution's weight.

        sums: which has the sums of d, by default this norm's. which: its row with Σ d·y.
        """
        module, back = self.module, self.tape.back
        gradients = self.tape.gradients[module.weight], self.tape.gradients[module.bias]
        arrays = module.weight.detach(), self._mean, self._inverse, (self._p, self._q, self._t), *gradients
        sums = self.sums if sums is None else sums
        back.append(norm.gradients(sums, *arrays, count=self._count, which=which))
        back.append(norm.combine(out, d, self.y, self._p, self._q, self._t))
        self.layer.weight_gradient(out)


class Residual:
    """Two convolutions and a shortcut. before: the layer before the block."""

    def __init__(self, tape: Tape, block: Block, before: "Normed | Residual"):
        self.tape = tape
        self.x: Tensor = before.out
        self.first = Normed(tape, block.conv1, block.norm1, self.x)
        self.first.activate()
        self.second = Normed(tape, block.conv2, block.norm2, self.first.out)
        self.out: Tensor = torch.zeros_like(self.second.y)
        self.shortcut: Normed | None = None
        added, scale = self.x, np.ones(self.out.shape[3], tape.number)
        if len(block.shortcut):
            conv, module = block.shortcut
            assert isinstance(conv, nn.Conv2d) and isinstance(module, nn.BatchNorm2d)
            self.shortcut = Normed(tape, conv, module, self.x, add_to=self.second)
            added, scale = self.shortcut.y, self.shortcut.scale
        arrays = self.second.scale, scale, self.second.term
        tape.ahead.append(norm.combine(self.out, self.second.y, added, *arrays, relu=True, count=tape.count))

    def onward(self) -> dict:
        """See `Normed.onward`."""
        other = None if self.shortcut is None else self.shortcut.y
        return {"mask": self.out, "a": self.second.y, "b": other, "sums": self.second.sums}

    def backward(self, d: Tensor, onward: dict) -> Tensor:
        """From d, the gradient of `out` before ReLU, to that of x, for whose layer it does `onward`."""
        e, inner, start = self.tape.scratch(d, 1), self.tape.scratch(d, 2), d
        self.second.backward(d, e)
        if self.shortcut is not None:
            self.shortcut.backward(d, d, self.second.sums, which=2)
            start = self.tape.scratch(self.x, 0)
            self.shortcut.layer.backward(d, start)
        self.second.layer.backward(e, inner, **self.first.onward())
        self.first.backward(inner, inner)
        self.first.layer.backward(inner, start, first=start, **onward)
        return start
