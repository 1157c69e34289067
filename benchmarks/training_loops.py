"""One epoch's worth of training steps, from an open_lth-style loop to ours, a factor at a time.

The loop that the factors start from is written after open_lth's: NCHW float32, PIL transforms image by image in the
training process, the mask multiplied into the weights before each forward pass, `torch.optim.SGD`. Its network does
not work in place, as open_lth's does not. Every factor keeps those before it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCH = 128


@dataclass(frozen=True)
class Factors:
    """Which of our ways a loop goes. The default is none: the open_lth-style loop."""

    loader: bool = False  # augmented by the `augment` kernel from uint8 in memory, not image by image
    layout: bool = False  # channels last
    network: bool = False  # our network, which works in place
    optimizer: bool = False  # MaskedSGD, not a multiplied mask and torch's SGD
    bfloat16: bool = False  # autocast


LADDER: dict[str, Factors] = {
    "open_lth-style loop": Factors(),
    "+ loader": Factors(loader=True),
    "+ channels last": Factors(loader=True, layout=True),
    "+ in-place network": Factors(loader=True, layout=True, network=True),
    "+ MaskedSGD": Factors(loader=True, layout=True, network=True, optimizer=True),
    "+ bfloat16": Factors(loader=True, layout=True, network=True, optimizer=True, bfloat16=True),
}
"""Cumulative: each step names the factor that it adds."""


def epoch(factors: Factors, images: np.ndarray, labels: Tensor, density: float = 0.2) -> Callable[[], None]:
    """A call that trains ResNet-20 for one pass over the images, in batches of 128.

    images: uint8 [N, 32, 32, 3]; labels: int64 [N] in [0, 10). density: of the mask, which is random.
    """
    from sparselt import MaskedSGD
    from sparselt.models import build_model

    torch.manual_seed(0)
    network = build_model("resnet20", classes=10, channels=3, seed=0) if factors.network else OutOfPlaceResNet20()
    memory = torch.channels_last if factors.layout else torch.contiguous_format
    network = network.to(memory_format=memory).train()
    parameters = dict(network.named_parameters())
    mask = {name: torch.rand(p.shape) < density for name, p in parameters.items() if p.dim() > 1}
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
    if factors.optimizer:
        optimizer = MaskedSGD(network.named_parameters(), mask=mask, **options)
    else:
        optimizer = torch.optim.SGD(network.parameters(), **options)
    multiplied = {} if factors.optimizer else {name: layer.float() for name, layer in mask.items()}
    batches = _kernel_batches(images, labels, memory) if factors.loader else _pil_batches(images, labels, memory)

    def run() -> None:
        for pixels, targets in batches():
            for name, layer in multiplied.items():
                parameters[name].data *= layer
            with torch.autocast("cpu", torch.bfloat16, enabled=factors.bfloat16):
                outputs = network(pixels)
            loss = F.cross_entropy(outputs.float(), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def _pil_batches(images: np.ndarray, labels: Tensor, memory) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    from PIL import Image
    from torchvision import transforms

    each = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(32, 4),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
            return each(Image.fromarray(images[place])), labels[place]

    loader = torch.utils.data.DataLoader(Images(), batch_size=BATCH, shuffle=True)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for pixels, targets in loader:
            yield pixels.contiguous(memory_format=memory), targets

    return batches


def _kernel_batches(images: np.ndarray, labels: Tensor, memory) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    from sparselt.kernels import augment

    resident = torch.from_numpy(images).permute(0, 3, 1, 2)
    options = {"seed": 0, "epoch": 0, "padding": 4, "flip": True, "mean": MEAN, "std": STD}
    options["channels_last"] = memory == torch.channels_last

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(images))
        for indices in order.split(BATCH):
            yield augment(resident[indices], indices, **options), labels[indices]

    return batches


class OutOfPlaceResNet20(nn.Module):
    """ResNet-20 with projection shortcuts and nothing in place; as many weights as ours."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        blocks, before = [], 16
        for width in (16, 32, 64):
            for place in range(3):
                blocks.append(_OutOfPlaceBlock(before, width, 2 if width > 16 and place == 0 else 1))
                before = width
        self.blocks, self.fc = nn.Sequential(*blocks), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(F.relu(self.norm(self.conv(images))))
        return self.fc(F.avg_pool2d(features, features.shape[3]).flatten(1))


class _OutOfPlaceBlock(nn.Module):
    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width))
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        self.shortcut = nn.Sequential()
        if before != width:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))
