"""The techniques of a fast ImageNet recipe, one function or class each. A recipe names those that it uses.

`mild` is the set for 25.6 epochs of ResNet-50 (Mosaic ResNet, mild recipe). Paul et al. 2022, appendix C, train with
Mosaic ResNet techniques without saying which. The set also has channels-last memory, which sparselt always uses, and
anti-aliased downsampling, which is another network here (`resnet50_blurpool`).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def smoothed_bce(outputs: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy of each class against its (smoothed) label: summed over classes, averaged over samples.

    outputs: float [N, classes]; labels: int64 [N]. The target is 1 - smoothing + smoothing / classes for the label and
    smoothing / classes elsewhere (Szegedy et al. 2016, section 7).
    """
    classes = outputs.shape[1]
    targets = torch.full_like(outputs, smoothing / classes)
    targets.scatter_(1, labels[:, None], 1 - smoothing + smoothing / classes)
    return F.binary_cross_entropy_with_logits(outputs, targets, reduction="sum") / len(outputs)


def start_bias_for_bce_(model: nn.Module, classes: int) -> None:
    """Sets the classifier's bias to -ln(classes), so that each class starts with a probability of about 1 / classes."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        last.bias.fill_(-math.log(classes))


def resize(images: Tensor, side: int) -> Tensor:
    """Resizes float [N, C, H, W] to [N, C, side, side], bilinearly without antialiasing."""
    if images.shape[2:] == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)


class WeightAverage:
    """An exponential moving average of a network's floating-point state, batch-norm statistics included.

    After each `interval` steps the average moves by 1 - 2^(-interval / half_life) towards the network. It starts as a
    copy of the network at the first update, so it is no worse than the network from then on.
    """

    interval = 20  # steps; for a half-life of 100, more frequent updates change far less than the noise

    def __init__(self, half_life: int):
        self._share = 1 - 2 ** (-self.interval / half_life)
        self._average: list[Tensor] | None = None

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """The average, by the names of the network's state; empty before the first update."""
        return dict(zip(_floating(model.state_dict()), self._average or (), strict=bool(self._average)))

    def load(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Goes on from a `state`."""
        held = model.state_dict()
        self._average = [state[name].to(held[name].device) for name in _floating(held)] if state else None

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards the network if `step` is a multiple of the interval."""
        if step % self.interval:
            return
        state = list(_floating(model.state_dict()).values())
        if self._average is None:
            self._average = [tensor.clone() for tensor in state]
        else:
            torch._foreach_lerp_(self._average, state, self._share)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Replaces the network's state by the average. Does nothing before the first update."""
        if self._average is not None:
            torch._foreach_copy_(list(_floating(model.state_dict()).values()), self._average)


def _floating(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
