"""A training step whose cost falls with the network's density, on a CPU.

The whole network runs on tiles of 64 images (`sparselt.kernels.tiles`). Each convolution hands batch norm its sums
while its result is in registers, forward and backward, and takes the gradients of ReLU and of the shortcut on the way.
So one pass forward and one backward over the activations remain beside the convolutions. All memory is set up once.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from sparselt.errors import SettingError
from sparselt.kernels.sparse_conv2d import cpu
from sparselt.kernels.sparse_conv2d.lists import pool_sides
from sparselt.kernels.tiles import enter, leave
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
        SettingError: the network has other layers.
    """

    def __init__(
        self,
        model: nn.Module,
        live: Mapping[str, Tensor],
        images: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
    ):
        self._expected, self._tape = tuple(images), Tape(model, live, images[0], dtype)
        if isinstance(model, CifarResNet):
            self._classifier = self._resnet(model)
        elif isinstance(model, nn.Sequential) and _is_perceptron(model):
            self._classifier = self._perceptron(model)
        else:
            raise SettingError(
                f"{type(model).__name__} has no sparse step: expected a CifarResNet, or Flatten, Linear, ReLU … Linear"
            )
        self._tape.ahead.insert(0, cpu.collect(self._tape.collected))
        self._addresses = [parameter.data_ptr() for parameter in self._tape.gradients]
        self._counts = [buffer for name, buffer in model.named_buffers() if name.endswith("num_batches_tracked")]

    def __call__(self, images: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Sets the parameters' gradients to those of `loss_of(outputs)`, 0 where masked, and returns the loss.

        The gradients are the same tensors in every step.

        Args:
            images: [N, channels, height, width], any floating dtype.
            loss_of: takes the outputs [N, classes], in the parameters' dtype, with `requires_grad`.

        Raises:
            ValueError: the images have another shape than the step was made for.
            RuntimeError: a parameter has other memory than the step was made for.
        """
        tape, classifier = self._tape, self._classifier
        if images.shape != self._expected:
            raise ValueError(f"images are {tuple(images.shape)}: this step was made for {self._expected}")
        if [parameter.data_ptr() for parameter in tape.gradients] != self._addresses:
            raise RuntimeError("a parameter has other memory: make the SparseStep anew, or copy into the old memory")
        with torch.no_grad():
            enter(images.reshape(len(images), -1, *self._images.shape[1:3]), self._images)
            self._logits.copy_(classifier.bias.view(-1, 1))
            for job in tape.ahead:
                job.run()
            if self._counts:
                torch._foreach_add_(self._counts, 1)
            outputs = leave(self._logits, tape.count).flatten(1).to(classifier.bias.dtype)
        with torch.enable_grad():
            loss = loss_of(outputs.requires_grad_())
        (gradient,) = torch.autograd.grad(loss, outputs)
        with torch.no_grad():
            enter(gradient.view(*gradient.shape, 1, 1), self._logits_gradient)
            torch.sum(gradient, 0, out=tape.gradients[classifier.bias])
            for job in tape.back:
                job.run()
        for parameter, computed in tape.gradients.items():
            parameter.grad = computed
        return loss.detach()

    def _resnet(self, model: CifarResNet) -> nn.Linear:
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
        self._classify(model.fc, pooled).backward(self._logits_gradient, pooled_gradient)
        d = tape.scratch(last.out, 0)
        tape.back.append(cpu.gather(spread, pooled_gradient, share[:channels], d, **last.onward()))
        for before, layer in zip(layers[-2::-1], layers[:0:-1], strict=True):
            assert isinstance(layer, Residual)
            d = layer.backward(d, before.onward())
        stem.backward(d, d)
        return model.fc

    def _perceptron(self, model: nn.Sequential) -> nn.Linear:
        tape = self._tape
        self._images = x = tape.tiles(1, 1, int(np.prod(self._expected[1:])))
        *hidden, last = [module for module in model if isinstance(module, nn.Linear)]
        layers: list[Rectified] = []
        for module in hidden:
            layers.append(Rectified(tape, module, x))
            x = layers[-1].out
        layer, d = self._classify(last, x), self._logits_gradient
        for before in layers[::-1]:
            inner = torch.zeros_like(before.out)
            layer.backward(d, inner, **before.onward())
            before.weight_gradients(inner)
            layer, d = before.layer, inner
        return last

    def _classify(self, module: nn.Linear, x: Tensor) -> Convolution:
        """Adds the last layer up to the gradient of its weight."""
        layer = Convolution(self._tape, module, x)
        self._logits, self._logits_gradient = layer.out, torch.zeros_like(layer.out)
        layer.forward(first=self._logits)
        layer.weight_gradient(self._logits_gradient)
        return layer


def _is_perceptron(model: nn.Sequential) -> bool:
    kinds = [type(module) for module in model]
    return kinds == [nn.Flatten, *[nn.Linear, nn.ReLU] * (len(kinds) // 2 - 1), nn.Linear]
