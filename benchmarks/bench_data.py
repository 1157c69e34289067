"""The loaders against torchvision's, and against FFCV's own; whole batches, from decoding to normalization.

Pictures are made here: smooth structures whose detail falls off as in photographs (a spectrum of 1/f^1.2), about
400 x 350 pixels, JPEG of quality 90. One timed call reads a part of an epoch. Before it, every loader has compiled,
started its processes and read a first epoch. `torchvision` is ImageFolder and DataLoader with as many processes as we
have threads, kept between epochs.
"""

import atexit
import os
import shutil
from functools import lru_cache
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from time import perf_counter

import numpy as np
import pytest
import torch

from sparselt.benchmarks.conditions import conditions
from sparselt.benchmarks.harness import Case, Competitor
from sparselt.data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageFolder,
    PadCrop,
    RandomResizedCrop,
    ResidentData,
    ResidentTrainLoader,
    StreamingTrainLoader,
    SyntheticImages,
    open_dataset,
    write_dataset,
)
from sparselt.data.streaming import picture_reader

HERE = conditions()
THREADS = min(16, len(os.sched_getaffinity(0)))
SIDE, BATCH, STEPS = 176, 64, 2 if HERE.quick else 16
DRAWN = 64 if HERE.quick else 256  # pictures: the others are the same once more, because each takes 30 ms to make
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SEEDS = {"order_seed": 0, "augmentation_seed": 0}


def new_folder() -> Path:
    folder = Path(mkdtemp(prefix="sparselt-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def photograph(random: np.random.Generator) -> np.ndarray:
    height, width = int(random.integers(320, 380)), int(random.integers(370, 430))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    strength = np.maximum(frequency, 1 / max(height, width)) ** -1.2

    def plane() -> np.ndarray:
        drawn = np.fft.irfft2(strength * np.exp(2j * np.pi * random.random(strength.shape)), s=(height, width))
        return drawn / drawn.std()

    shared = plane()
    return np.clip(127 + 50 * np.stack([shared + 0.4 * plane() for _ in range(3)], -1), 0, 255).astype(np.uint8)


@lru_cache
def photographs() -> Path:
    """A folder in ImageNet's layout, and beside it the betons: of JPEG, as we write them."""
    from PIL import Image

    root, random = new_folder(), np.random.default_rng(0)
    drawn: list[Path] = []
    for split, many in (("train", max(BATCH, HERE.scaled(BATCH * STEPS))), ("val", 4)):
        for number in range(many):
            path = root / "pictures" / split / str(number % 4) / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            if len(drawn) < DRAWN:
                Image.fromarray(photograph(random)).save(path, quality=90)
                drawn.append(path)
            else:
                os.link(drawn[number % DRAWN], path)
    write_dataset(ImageFolder(str(root / "pictures"), jpeg_share=1.0), root / "betons")
    return root


def streaming(reader: str = "auto") -> StreamingTrainLoader:
    dataset = open_dataset(photographs() / "betons")
    return StreamingTrainLoader(
        dataset, BATCH, **SEEDS, transform=RandomResizedCrop(SIDE), device=HERE.device, threads=THREADS, reader=reader
    )


def reading(loader) -> Competitor:
    epochs = count()
    return Competitor("sparselt", lambda: drain(loader.epoch(next(epochs))))


def drain(batches) -> int:
    return sum(len(batch[1]) for batch in batches)


def torchvision_folder():
    from torchvision import transforms
    from torchvision.datasets import ImageFolder as Folder

    steps = [transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    each = transforms.Compose([*steps, transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    return torch.utils.data.DataLoader(
        Folder(photographs() / "pictures" / "train", each),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=THREADS,
        persistent_workers=True,
        pin_memory=HERE.on_gpu,
    )


def on_device(batches):
    for images, labels in batches:
        yield images.to(HERE.device, non_blocking=True), labels.to(HERE.device, non_blocking=True)


def test_streaming_random_resized_crops(compare):
    theirs, ours = torchvision_folder(), streaming()
    rivals = [Competitor("torchvision", lambda: drain(on_device(theirs)))]
    if ours.reader == "ffcv":
        rivals.append(Competitor("sparselt, Pillow", reading(streaming("pillow")).call))
    compare(
        Case(
            "data", f"JPEG to {SIDE} px, {ours.reader}", size=ours.steps_per_epoch * BATCH, dtype="uint8", unit="images"
        ),
        reading(ours),
        rivals,
    )


@pytest.mark.skipif(picture_reader() != "ffcv", reason="FFCV is not installed")
def test_cost_of_determinism(compare):
    """FFCV's own loader, decoder, crop and flip, unseeded; then the same normalization as ours."""
    import ffcv
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.transforms import RandomHorizontalFlip

    from sparselt.data.batch import normalized

    transform, ours = RandomResizedCrop(SIDE), streaming()
    stock = ffcv.loader.Loader(
        str(photographs() / "betons" / "train.beton"),
        batch_size=BATCH,
        num_workers=THREADS,
        order=ffcv.loader.OrderOption.RANDOM,
        drop_last=True,
        batches_ahead=2,
        pipelines={
            "label": None,
            "image": [RandomResizedCropRGBImageDecoder((SIDE, SIDE)), RandomHorizontalFlip(0.5)],
        },
    )

    def read_stock() -> None:
        for (images,) in stock:
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(HERE.device)
            normalized(pixels, torch.arange(len(pixels), device=HERE.device), transform)

    compare(
        Case("data", "the same operations as FFCV", size=ours.steps_per_epoch * BATCH, dtype="uint8", unit="images"),
        reading(ours),
        [Competitor("FFCV as it comes", read_stock)],
    )


@lru_cache
def small_images() -> ResidentData:
    """Random images of CIFAR's shape and, unless the run is scaled down, its size."""
    folder = new_folder()
    shape = {"classes": 10, "height": 32, "width": 32, "storage": "raw"}
    write_dataset(
        SyntheticImages(max(1024, HERE.scaled(4_000 if HERE.quick else 50_000)), 10, **shape), folder, workers=THREADS
    )
    return ResidentData.read(open_dataset(folder))


@pytest.mark.parametrize("batch", [128, 512])
def test_cifar_batches(batch, compare):
    """Compares a call for an epoch's images; torchvision reads a few batches, and its time is scaled up."""
    from PIL import Image
    from torchvision import transforms

    resident = small_images()
    transform = PadCrop(4, True, MEAN, STD)
    ours = ResidentTrainLoader(resident, batch, **SEEDS, transform=transform, device=HERE.device)
    arrays = resident.images("train")[: 8 * batch].permute(0, 2, 3, 1).contiguous().numpy()
    steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    each = transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])
    labels = resident.labels("train").tolist()

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(arrays)

        def __getitem__(self, index: int):
            return each(Image.fromarray(arrays[index])), labels[index]

    theirs = torch.utils.data.DataLoader(Images(), batch, shuffle=True)
    epochs, seconds = count(), {"sparselt": [], "torchvision": []}
    for _ in range(4 if HERE.quick else 8):
        for name, batches in (("torchvision", on_device(theirs)), ("sparselt", ours.epoch(next(epochs)))):
            start = perf_counter()
            read = drain(batches)
            if HERE.on_gpu:
                torch.cuda.synchronize()
            seconds[name].append((perf_counter() - start) / read * batch)
    warm = {name: times[1:] for name, times in sorted(seconds.items())}
    compare.times(Case("data", f"CIFAR batch of {batch}", size=batch, dtype="uint8", unit="images"), warm)


def test_resuming_at_the_last_step(compare, tmp_path):
    """The time to the first batch at the last step of an epoch of 50,000 pictures, beside that at the first step."""
    size = max(BATCH, HERE.scaled(4_000 if HERE.quick else 50_000))
    pictures = SyntheticImages(size, 4, classes=4, height=24, width=24, difficulty=0.1)
    write_dataset(pictures, tmp_path, workers=THREADS)
    loader = StreamingTrainLoader(
        open_dataset(tmp_path), BATCH, **SEEDS, transform=RandomResizedCrop(16), device=HERE.device, threads=THREADS
    )
    epochs, last = count(), loader.steps_per_epoch - 1

    def first_batch(start_step: int) -> None:
        batches = loader.epoch(next(epochs), start_step)
        next(batches)
        batches.close()

    compare(
        Case("data", f"resume within {size:,} pictures", size=1, dtype="uint8", unit="resumptions"),
        Competitor("sparselt, last step", lambda: first_batch(last)),
        [Competitor("sparselt, first step", lambda: first_batch(0))],
    )
