"""One epoch's worth of training steps, from an open_lth-style loop to ours, a factor at a time.

The first loop works as open_lth's: NCHW float32, PIL transforms image by image in the training process, the mask
multiplied into the weights before each forward pass, `torch.optim.SGD`, a network without in-place operations. Each
further loop adds a factor to those before it.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCH = 128


@dataclass(frozen=True)
class Factors:
    """Our factors that a loop uses; by default none, as in the open_lth-style loop."""

    loader: bool = False  # ResidentTrainLoader: augmented by a kernel from uint8 in memory, not image by image
    layout: bool = False  # channels last
    network: bool = False  # our network, which works in place
    optimizer: bool = False  # MaskedSGD, not a multiplied mask and torch's SGD
    norms: bool = False  # batch norm, addition and ReLU as one operation
    winograd: bool = False  # 3×3 convolutions by Winograd's algorithm where it pays; on a CPU
    bfloat16: bool = False  # autocast
    memory: bool = False  # the process keeps the memory that it frees, as a run's workers do; on a CPU
    live: bool = False  # SparseStep, which computes live weights alone; on a CPU


def _cumulative(added: Mapping[str, str]) -> dict[str, Factors]:
    """The open_lth-style loop, and a loop for each factor, which also has the factors before it."""
    ladder = {"open_lth-style loop": Factors()}
    for name, factor in added.items():
        before = list(ladder.values())[-1]
        ladder[name] = replace(before, **{factor: True})
    return ladder


LADDER = _cumulative(
    {
        "+ loader": "loader",
        "+ channels last": "layout",
        "+ in-place network": "network",
        "+ MaskedSGD": "optimizer",
        "+ kept memory": "memory",
        "+ fused norms": "norms",
        "+ Winograd": "winograd",
        "+ bfloat16": "bfloat16",
    }
)
"""Cumulative: each step names the factor that it adds."""

CPU_ONLY = "+ kept memory", "+ Winograd"

LIVE = {"+ live weights alone": replace(LADDER["+ bfloat16"], live=True)}
"""After `LADDER`, on a CPU. Unlike the others it depends on the mask: 20% of the weights."""

PROCESSES = "+ a process a core"
"""After `LIVE`: as many trainings at once as there are cores, one thread each, as a campaign runs them."""

COHORTS = {"+ CUDA graph": 1, "+ cohort of 8": 8}
"""After `LADDER`, on a GPU: networks that one captured step trains. Not yet measured on a device."""


@lru_cache(maxsize=1)
def resident(images: int):
    """Random images of CIFAR's shape in memory, as the resident loader has them."""
    from sparselt.data import ResidentData, SyntheticImages, open_dataset, write_dataset

    with TemporaryDirectory() as folder:
        source = SyntheticImages(images, 4, classes=4, height=32, width=32, storage="raw")
        write_dataset(source, Path(folder), workers=1)
        return ResidentData.read(open_dataset(folder))


def epoch(factors: Factors, images: int, device: str = "cpu", density: float = 0.2) -> Callable[[], None]:
    """A call that trains ResNet-20 for one pass over a number of images, in batches of 128.

    density: of the mask, which is random.
    """
    from sparselt import MaskedSGD
    from sparselt.models import build_model
    from sparselt.models.sparse_step import SparseStep
    from sparselt.models.winograd import winograd_
    from sparselt.training.fused_norm import fused_forward

    torch.manual_seed(0)
    network = build_model("resnet20", classes=10, channels=3, seed=0) if factors.network else OutOfPlaceResNet20()
    memory = torch.channels_last if factors.layout else torch.contiguous_format
    network = network.to(device).to(memory_format=memory).train()
    if factors.winograd:
        winograd_(network)
    parameters = dict(network.named_parameters())
    mask = {name: torch.rand(p.shape) < density for name, p in parameters.items() if p.dim() > 1}
    options: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
    if factors.optimizer:
        optimizer = MaskedSGD(network.named_parameters(), mask=mask, **options)
    else:
        optimizer = torch.optim.SGD(network.parameters(), **options)
    multiplied = {} if factors.optimizer else {name: layer.float().to(device) for name, layer in mask.items()}
    batches = _loader_batches(images, device) if factors.loader else _pil_batches(images)
    tiles = torch.bfloat16 if factors.bfloat16 else torch.float32
    forward = fused_forward(network) if factors.norms else network
    live = SparseStep(network, mask, (BATCH, 3, 32, 32), tiles) if factors.live else None

    def run() -> None:
        for pixels, targets in batches():
            if live is not None:
                live(pixels, targets)
                optimizer.step()
                continue
            pixels, targets = pixels.to(device).contiguous(memory_format=memory), targets.to(device)
            for name, layer in multiplied.items():
                parameters[name].data *= layer
            with torch.autocast(device, torch.bfloat16, enabled=factors.bfloat16):
                outputs = forward(pixels)
            loss = F.cross_entropy(outputs.float(), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()

    return run


def cohort(networks: int, images: int, device: str = "cuda") -> Callable[[], float]:
    """A call that trains several networks side by side for a few steps; on a GPU the step is captured.

    It returns the seconds for `images` images of all networks together.
    """
    from sparselt.models import build_model
    from sparselt.training.cohort import Cohort
    from sparselt.training.recipe import Recipe
    from sparselt.training.schedule import Schedule

    recipe = Recipe("resnet20", BATCH, 1000, Schedule("step", 0.05), precision="bfloat16")
    models = [build_model("resnet20", classes=10, channels=3, seed=k).to(device) for k in range(networks)]
    together = Cohort(models, recipe, _loader(images, device))
    return lambda: images / together.images_per_second()


class Processes:
    """Processes that train on request: `run` makes each of them do one pass of the named loop.

    loops: by name. If all have `memory`, the processes keep the memory that they free. threads: of each process.
    """

    def __init__(self, count: int, loops: Mapping[str, Factors], images: int, threads: int):
        context = multiprocessing.get_context("spawn")
        self._pipes, self._processes = [], []
        for _ in range(count):
            ours, theirs = context.Pipe()
            arguments = theirs, loops, images, threads, BATCH
            process = context.Process(target=_train_on_demand, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, loop: str) -> None:
        for pipe in self._pipes:
            pipe.send(loop)
        for pipe in self._pipes:
            pipe.recv()

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(10)


def _train_on_demand(pipe, loops: Mapping[str, Factors], images: int, threads: int, batch: int) -> None:
    from sparselt.training.cpu import keep_memory

    global BATCH
    BATCH = batch
    if all(factors.memory for factors in loops.values()):
        keep_memory()
    torch.set_num_threads(threads)
    calls = {name: epoch(factors, images) for name, factors in loops.items()}
    try:
        while True:
            calls[pipe.recv()]()
            pipe.send(True)
    except EOFError:  # the other end is closed
        return


def _pil_batches(images: int) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    from PIL import Image
    from torchvision import transforms

    data = resident(images)
    arrays: np.ndarray = data.images("train").permute(0, 2, 3, 1).contiguous().numpy()
    labels = data.labels("train")
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
            return len(arrays)

        def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
            return each(Image.fromarray(arrays[place])), labels[place]

    loader = torch.utils.data.DataLoader(Images(), batch_size=BATCH, shuffle=True)
    return lambda: iter(loader)


def _loader_batches(images: int, device: str) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    loader, epochs = _loader(images, device), iter(range(10**9))
    return lambda: ((batch.images, batch.labels) for batch in loader.epoch(next(epochs)))


def _loader(images: int, device: str):
    from sparselt.data import PadCrop, ResidentTrainLoader

    crop = PadCrop(4, True, MEAN, STD)
    return ResidentTrainLoader(resident(images), BATCH, 0, 0, transform=crop, device=device)


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
