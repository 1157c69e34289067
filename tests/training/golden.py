"""Short trainings whose losses are frozen in golden.json; `python golden.py` writes the file anew.

They run in float64: what another processor, thread count or version of torch rounds differently stays near 1e-13, so
the tolerance can be tight. Only the augmented images are float32, whatever the network. One last bit of every pixel up
or down moved these losses by at most 2.1e-7 of their value (ten draws); the smallest effect of the changes of
algorithm that were tried (`CHANGES`) was 1.8e-4. The tolerance, 5e-6, is a factor of 24 and 36 away from the two.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from sparselt import MaskedSGD, magnitude_prune
from sparselt.data.batch import Batch
from sparselt.data.order import batches_of, sample_order
from sparselt.kernels import augment
from sparselt.kernels.philox import key_of, philox4x32
from sparselt.masks import Mask
from sparselt.models import build_model
from sparselt.reproduce import load_setting
from sparselt.training import loop
from sparselt.training.techniques import start_bias_for_bce_

FILE = Path(__file__).with_name("golden.json")
RELATIVE = 5e-6
# The ImageNet recipes train a CIFAR network here: ResNet-50 on a few small images is chaotic within three steps.
_IMAGENET = {
    "model": "resnet20",
    "batch_size": 16,
    "micro_batches": 1,
    "steps": 6,
    "warmup_steps": 3,
    "lr": 0.05,
    "train_size": 16,
}
SETTINGS = {
    "digits_resnet8": {"batch_size": 16, "steps": 24, "milestones": (8, 16), "lr": 0.1},
    "imagenet_resnet50": {**_IMAGENET, "initialization": "kaiming_normal", "norm_scale": "uniform"},
    "imagenet_resnet50_mild": {**_IMAGENET, "lr": 0.005, "steps": 5, "micro_batches": 2},
}
CHANGES = {
    "digits_resnet8": [{"weight_decay": 0.0}, {"nesterov": True}, {"momentum": 0.89}, {"milestones": (9, 16)}],
    "imagenet_resnet50": [
        {"weight_decay": 0.0},
        {"decoupled_weight_decay": False},
        {"warmup_steps": 2},
        {"norm_scale": "ones"},
    ],
    "imagenet_resnet50_mild": [{"techniques": "none"}, {"micro_batches": 1}, {"weight_decay": 0.0}],
}


class Images:
    """Images whose pixels are drawn by Philox, brighter in one corner by class: a loader for `loop.train`."""

    def __init__(self, count: int, channels: int, side: int, batch_size: int, last_bit: int = 0):
        counters = np.zeros((count * channels * side * side, 4), np.uint64)
        counters[:, 0] = np.arange(len(counters))
        pixels = (philox4x32(counters, *key_of(5))[:, 0] >> np.uint32(24)).astype(np.uint8)
        self.images = torch.from_numpy(pixels.reshape(count, channels, side, side).copy())
        self.labels = torch.arange(count) % 10
        for label in range(10):
            self.images[label::10, :, label % side, : side // 2] = 255
        self.batch_size, self.steps_per_epoch, self._last_bit = batch_size, count // batch_size, last_bit

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        channels = self.images.shape[1]
        for indices in batches_of(sample_order(3, epoch, len(self.images)), self.batch_size, start_step):
            indices = torch.from_numpy(indices)
            normal = {"mean": [0.5] * channels, "std": [0.25] * channels}
            images = augment(self.images[indices], indices, seed=4, epoch=epoch, padding=2, flip=True, **normal)
            if self._last_bit:
                torch.manual_seed(self._last_bit)
                images = torch.nextafter(images, torch.randn_like(images) * torch.inf)
            yield Batch(images.double(), self.labels[indices], indices)


def losses(name: str, last_bit: int = 0, **changes) -> list[float]:
    """The batch losses of a training with a random mask of density about 0.8, in float64."""
    # The step on live weights is held to torch's in test_live.py.
    fixed = {"rewind_steps": (0,), "sparse_up_to": 0.0}
    setting = dataclasses.replace(load_setting(name), **{**fixed, **SETTINGS[name], **changes})
    recipe = dataclasses.replace(setting.recipe, precision="float32")
    initial = {"initialization": recipe.initialization, "norm_scale": recipe.norm_scale}
    model = build_model(recipe.model, classes=10, channels=setting.channels, seed=1, **initial).double()
    if recipe.techniques.bce:
        start_bias_for_bce_(model, 10)
    mask = magnitude_prune(model, Mask.ones_like(model), 0.2)
    mask.apply_(model)
    options = {key: getattr(recipe, key) for key in ("momentum", "weight_decay", "nesterov", "decoupled_weight_decay")}
    optimizer = MaskedSGD(model.named_parameters(), lr=recipe.schedule.peak, mask=mask, **options)
    seen = []
    original = loop.training_loss

    def noted(*arguments):
        seen.append(original(*arguments))
        return seen[-1]

    loop.training_loss = noted
    try:
        loop.train(
            model, optimizer, Images(64, setting.channels, setting.train_size, recipe.batch_size, last_bit), recipe
        )
    finally:
        loop.training_loss = original
    return [loss.item() for loss in seen]


def difference(first: list[float], second: list[float]) -> float:
    """The largest relative difference; infinite for lists of different length."""
    if len(first) != len(second):
        return float("inf")
    return max(abs(a - b) / abs(b) for a, b in zip(first, second, strict=True))


if __name__ == "__main__":
    torch.set_num_threads(1)
    golden = {name: losses(name) for name in SETTINGS}
    for name, values in golden.items():
        print(name, "two threads", end=" ")
        torch.set_num_threads(2)
        print(difference(losses(name), values), "last bits", end=" ")
        print(max(difference(losses(name, last_bit=draw), values) for draw in range(1, 11)))
        for change in CHANGES[name]:
            print("  ", change, difference(losses(name, **change), values))
        torch.set_num_threads(1)
    FILE.write_text(json.dumps(golden, indent=1) + "\n")
