"""A training step whose cost falls with the network's density, on a CPU.

The whole network runs on tiles of 64 images (`sparselt.kernels.tiles`). Each convolution hands batch norm its sums
while its result is in registers, forward and backward, and takes the gradients of ReLU and of the shortcut on the way.
So one pass forward and one backward over the activations remain beside the convolutions. All memory is set up once.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from sparselt.errors import SettingError
from sparselt.kernels._jobs import Chain
from sparselt.kernels.sparse_conv2d import cpu
from sparselt.kernels.sparse_conv2d.lists import pool_sides
from sparselt.kernels.sparse_conv2d.loss import LABELS, cross_entropy
from sparselt.kernels.tiles import enter
from sparselt.models.residual import Block, CifarResNet
from sparselt.models.sparse_layers import Convolution, Normed, Rectified, Residual, Tape


class SparseStep:
    """Forward and backward pass of a network in training mode, with the live weights alone.

    Args:
        model: a `CifarResNet`, or a `Sequential` of Flatten, then Linear and ReLU in turn (LeNet-300-100), on the CPU.
            Its parameters and buffers are read and written where they are, so an optimizer works on them as usual.
        live: bool, by name of the parameter, for the weights under a mask; other weights are dense.
        images: shape [N, channels, height, width] of every batch.
        dtype: of the activations: float32, bfloat16, or float64 for a model of that dtype. Weights and sums are
            float32 (float64), also where torch's autocast rounds weights to bfloat16.

    Raises:
        SettingError: the network has other layers, or takes other images; a mask is not of one of its parameters; a
            dtype that is not taken.
    """

    def __init__(
        self,
        model: nn.Module,
        live: Mapping[str, Tensor],
        images: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
    ):
        if against := reason_against(model):
            raise SettingError(against)
        _check(model, live, tuple(images), dtype)
        self._expected, self._tape = tuple(images), Tape(model, live, images[0], dtype)
        if isinstance(model, CifarResNet):
            self._resnet(model)
        else:
            assert isinstance(model, nn.Sequential)
            self._perceptron(model)
        tape = self._tape
        self._chain = Chain([cpu.collect(tape.collected), *tape.ahead, self._loss, *tape.back])
        self._owners = [
            (layer._parameters, name, parameter)
            for layer in model.modules()
            for name, parameter in layer._parameters.items()
            if parameter is not None
        ]
        self._addresses = [parameter.data_ptr() for parameter in self._tape.gradients]
        self._counts = [buffer for name, buffer in model.named_buffers() if name.endswith("num_batches_tracked")]

    def __call__(self, images: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Sets the parameters' gradients to those of the mean cross-entropy, 0 where masked, and returns it (nats).

        The gradients are the same tensors in every step.

        Args:
            images: [N, channels, height, width], any floating dtype.
            labels: int64 [N], in [0, classes).
            label_smoothing: see `torch.nn.functional.cross_entropy`.

        Raises:
            ValueError: images or labels have another shape or dtype than the step was made for; a label is no class.
            RuntimeError: a parameter is another, or has other memory, than the step was made for.
        """
        tape = self._tape
        if images.shape != self._expected:
            raise ValueError(f"images are {tuple(images.shape)}: this step was made for {self._expected}")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(f"labels are {labels.dtype} {tuple(labels.shape)}: expected int64 {(tape.count,)}")
        if [parameter.data_ptr() for parameter in tape.gradients] != self._addresses or any(
            owner[name] is not parameter for owner, name, parameter in self._owners
        ):
            raise RuntimeError("a parameter has other memory: make the SparseStep anew, or copy into the old memory")
        labels = labels.contiguous()
        self._loss.words[LABELS] = labels.data_ptr()
        self._options[0] = label_smoothing
        with torch.no_grad():
            enter(images.reshape(len(images), -1, *self._images.shape[1:3]), self._images)
            if self._counts:
                torch._foreach_add_(self._counts, 1)
        self._chain.run()
        if math.isnan(self._options[1]) and not ((labels >= 0) & (labels < self._classes)).all():
            low, high = int(labels.min()), int(labels.max())
            raise ValueError(f"labels are from {low} to {high}: expected classes from 0 to {self._classes - 1}")
        for parameter, gradient in tape.gradients.items():
            parameter.grad = gradient
        return torch.tensor(self._options[1], dtype=next(iter(tape.gradients)).dtype)

    def _resnet(self, model: CifarResNet) -> None:
        tape = self._tape
        _, channels, height, width = self._expected
        self._images = tape.tiles(height, width, channels)
        stem = Normed(tape, model.conv, model.norm, self._images)
        stem.activate()
        layers: list[Normed | Residual] = [stem]
        for block in model.blocks:
            assert isinstance(block, Block)
            layers.append(Residual(tape, block, layers[-1]))
        last = layers[-1]
        _, height, width, channels, _ = last.out.shape
        gathered, spread = pool_sides(height, width, channels, tape.dtype.itemsize)
        share = np.full(height * width * channels, 1 / (height * width), tape.number)
        pooled, pooled_gradient = tape.tiles(1, 1, channels), tape.tiles(1, 1, channels)
        tape.ahead.append(cpu.gather(gathered, last.out, share, pooled))
        classifier, d = self._classify(model.fc, pooled)
        classifier.backward(d, pooled_gradient)
        d = tape.scratch(last.out, 0)
        tape.back.append(cpu.gather(spread, pooled_gradient, share[:channels], d, **last.onward()))
        for before, layer in zip(layers[-2::-1], layers[:0:-1], strict=True):
            assert isinstance(layer, Residual)
            d = layer.backward(d, before.onward())
        stem.backward(d, d)

    def _perceptron(self, model: nn.Sequential) -> None:
        tape = self._tape
        self._images = x = tape.tiles(1, 1, int(np.prod(self._expected[1:])))
        *hidden, last = [module for module in model if isinstance(module, nn.Linear)]
        layers: list[Rectified] = []
        for module in hidden:
            layers.append(Rectified(tape, module, x))
            x = layers[-1].out
        layer, d = self._classify(last, x)
        for before in layers[::-1]:
            inner = torch.zeros_like(before.out)
            layer.backward(d, inner, **before.onward())
            before.weight_gradients(inner)
            layer, d = before.layer, inner

    def _classify(self, module: nn.Linear, x: Tensor) -> tuple[Convolution, Tensor]:
        """Adds the last layer and the loss, up to the gradient of the layer's weight. The layer, and its gradient d."""
        tape, layer = self._tape, Convolution(self._tape, module, x)
        d = torch.zeros_like(layer.out)
        layer.forward()
        bias = module.bias.detach(), tape.gradients[module.bias]
        self._options, self._classes = np.zeros(2), module.out_features
        self._loss = cross_entropy(layer.out, d, *bias, self._options, tape.count)
        layer.weight_gradient(d)
        return layer, d


def _check(model: nn.Module, live: Mapping[str, Tensor], images: tuple[int, ...], dtype: torch.dtype) -> None:
    parameters = dict(model.named_parameters())
    for name, mask in live.items():
        if name not in parameters:
            raise SettingError(f"the mask has {name!r}, which is not a parameter of the network")
        if (mask.shape, mask.dtype) != (parameters[name].shape, torch.bool):
            raise SettingError(
                f"the mask of {name} is {mask.dtype} {tuple(mask.shape)}; expected torch.bool "
                f"{tuple(parameters[name].shape)}"
            )
    of_model = next(iter(parameters.values())).dtype
    taken = {torch.float32: (torch.float32, torch.bfloat16), torch.float64: (torch.float64,)}.get(of_model, ())
    if dtype not in taken:
        raise SettingError(f"dtype is {dtype} for a network of {of_model}; expected one of {list(taken)}")
    if len(images) != 4 or min(images) < 1:
        raise SettingError(f"images is {images}; expected the shape [N, channels, height, width] of a batch")
    if isinstance(model, CifarResNet):
        expected, found, what = model.conv.in_channels, images[1], "channels"
    else:
        first = next(module for module in model.modules() if isinstance(module, nn.Linear))
        expected, found, what = first.in_features, math.prod(images[1:]), "values an image"
    if found != expected:
        raise SettingError(f"images is {images}, with {found} {what}; the network takes {expected}")


def reason_against(model: nn.Module) -> str:
    """Why a network has no `SparseStep`; empty if it has one."""
    kinds = [type(module) for module in model] if isinstance(model, nn.Sequential) else []
    perceptron = kinds == [nn.Flatten, *[nn.Linear, nn.ReLU] * (len(kinds) // 2 - 1), nn.Linear]
    if perceptron or isinstance(model, CifarResNet):
        return ""
    return f"{type(model).__name__} has no sparse step: expected a CifarResNet, or Flatten, Linear, ReLU … Linear"
