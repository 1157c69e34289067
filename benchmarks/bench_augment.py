"""augment against torchvision's transforms: an image at a time, as a data set applies them, and on a batch.

Images are CIFAR's: uint8, 3 × 32 × 32, rows of channels last, padded by 4 pixels, cropped, flipped and normalized. Each
call draws new random numbers. `torchvision v2, batch` crops and flips all images of a batch alike: less work, and
another augmentation, but torchvision has no other for batches. Bytes moved for each pixel and channel: 1 read, 4
written.
"""

from itertools import count

import pytest
import torch

from sparselt.benchmarks.conditions import conditions
from sparselt.benchmarks.harness import Case, Competitor, Rotation
from sparselt.benchmarks.networks import training_step
from sparselt.kernels import augment

HERE = conditions()
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCHES = [128] if HERE.quick else [128, 512, 4096] if HERE.on_gpu else [128, 512]


def rivals(images: Rotation) -> list[Competitor]:
    """images: batches [N, 3, 32, 32] on the device."""
    from PIL import Image
    from torchvision import transforms
    from torchvision.transforms import v2

    each = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    whole = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    batch = Competitor("torchvision v2, batch", lambda: whole(images.now), images.turn)
    if HERE.on_gpu:
        return [batch]
    arrays = Rotation(*(list(batch.permute(0, 2, 3, 1).numpy()) for batch in images.sets))
    return [
        Competitor(
            "torchvision, per image", lambda: torch.stack([each(Image.fromarray(a)) for a in arrays.now]), arrays.turn
        ),
        Competitor("torchvision v2, per image", lambda: torch.stack([*map(whole, images.now)]), images.turn),
        batch,
    ]


@pytest.mark.parametrize("clock", HERE.clocks(small=True)[:1])
@pytest.mark.parametrize("size", BATCHES)
def test_cifar_batch(size, clock, compare):
    generator = torch.Generator().manual_seed(0)
    shape = (max(4, HERE.scaled(size)), 32, 32, 3)
    drawn = [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in range(2)]
    images = Rotation(*(batch.to(HERE.device).permute(0, 3, 1, 2) for batch in drawn))
    indices = torch.randint(0, 50_000, shape[:1], generator=generator).to(HERE.device)
    epochs = count()
    options = {"seed": 0, "padding": 4, "flip": True, "mean": MEAN, "std": STD}

    compare(
        Case("augment", f"batch of {shape[0]}", size=shape[0], dtype="uint8", unit="images"),
        Competitor("augment", lambda: augment(images.now, indices, epoch=next(epochs), **options), images.turn),
        rivals(images),
        moved=images.now.numel() * 5,
        step=training_step("ResNet-20"),
        clock=clock,
    )
