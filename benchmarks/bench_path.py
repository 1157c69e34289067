"""Error and loss at 11 points of a path through ResNet-20, against a hand-written loop over the points.

Images are 1,000 random ones of CIFAR's shape. The loop works as in open_lth: for every point, torch.lerp makes the
state dict tensor by tensor, and a network in NCHW float32 without in-place operations loads and evaluates it batch by
batch. `plain loop` has its batches in memory. `DataLoader loop` reads them again at every point, image by image through
PIL, as open_lth does. Batches hold 128 images, as in open_lth.
"""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sparselt import winograd_
from sparselt.analysis import evaluate_path, path_positions
from sparselt.benchmarks.conditions import conditions
from sparselt.benchmarks.harness import Case, Competitor
from sparselt.benchmarks.networks import training_step
from sparselt.benchmarks.training_loops import BATCH, MEAN, STD, OutOfPlaceResNet20
from sparselt.models import build_model

HERE = conditions()
POINTS, IMAGES = 11, HERE.scaled(256 if HERE.quick else 1000)


class Problem:
    """Two ends for our network and for the loop's, and the test images in both layouts."""

    def __init__(self, winograd: bool = False):
        generator = np.random.default_rng(0)
        self.pixels = generator.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
        self.labels = torch.from_numpy(generator.integers(0, 10, IMAGES)).to(HERE.device)
        mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
        images = ((torch.from_numpy(self.pixels).permute(0, 3, 1, 2) / 255 - mean) / std).to(HERE.device)
        self.batches = {
            memory: list(
                zip(images.contiguous(memory_format=memory).split(BATCH), self.labels.split(BATCH), strict=True)
            )
            for memory in (torch.contiguous_format, torch.channels_last)
        }
        self.model = build_model("resnet20", classes=10, channels=3, seed=0).to(HERE.device)
        if winograd:
            winograd_(self.model)
        self.theirs = OutOfPlaceResNet20().to(HERE.device).eval()
        self.ends = [
            self._lived_in(lambda seed=seed: build_model("resnet20", classes=10, channels=3, seed=seed))
            for seed in (0, 1)
        ]
        self.their_ends = [self._lived_in(OutOfPlaceResNet20) for _ in range(2)]

    def ours(self, precision: str, **options) -> None:
        evaluate_path(
            self.model,
            self.ends[0],
            self.ends[1],
            self.batches[torch.channels_last],
            path_positions(POINTS),
            precision=precision,
            **options,
        )

    def loop(self, batches) -> None:
        for position in path_positions(POINTS):
            state = {
                name: torch.lerp(a, b, position) if a.is_floating_point() else a
                for (name, a), b in zip(self.their_ends[0].items(), self.their_ends[1].values(), strict=True)
            }
            self.theirs.load_state_dict(state)
            wrong, loss = 0, 0.0
            with torch.no_grad():
                for images, labels in batches:
                    outputs = self.theirs(images.to(HERE.device))
                    loss += F.cross_entropy(outputs, labels.to(HERE.device), reduction="sum").item()
                    wrong += (outputs.argmax(1) != labels.to(HERE.device)).sum().item()

    def _lived_in(self, build) -> dict[str, torch.Tensor]:
        """The state of a fresh network whose norms have seen a batch."""
        model = build().to(HERE.device)
        with torch.no_grad():
            model(self.batches[torch.contiguous_format][0][0])
        return model.state_dict()

    def from_disk_format(self) -> torch.utils.data.DataLoader:
        from PIL import Image
        from torchvision import transforms

        each = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
        pixels, labels = self.pixels, self.labels.tolist()

        class Images(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return len(pixels)

            def __getitem__(self, place: int):
                return each(Image.fromarray(pixels[place])), labels[place]

        return torch.utils.data.DataLoader(Images(), batch_size=BATCH)


THREADS = torch.get_num_threads()


@pytest.fixture(params=["", ", one thread"] if THREADS > 1 and not HERE.on_gpu else [""])
def threads(request):
    """All threads, or one, as a worker of a run has."""
    torch.set_num_threads(1 if request.param else THREADS)
    yield request.param
    torch.set_num_threads(THREADS)


@pytest.mark.parametrize(
    "arithmetic", ["float32", "float32 by Winograd's algorithm", "bfloat16", "bfloat16 by Winograd's algorithm"]
)
def test_path_of_resnet_20(arithmetic, threads, compare):
    if "Winograd" in arithmetic and HERE.on_gpu:
        pytest.skip("winograd_ changes nothing on a GPU")
    problem, precision = Problem("Winograd" in arithmetic), arithmetic.partition(" ")[0]
    loader = problem.from_disk_format()
    rivals = [
        Competitor("plain loop", lambda: problem.loop(problem.batches[torch.contiguous_format])),
        Competitor("DataLoader loop", lambda: problem.loop(loader)),
    ]
    if precision == "float32":
        rivals.append(Competitor("sparselt, not folded", lambda: problem.ours(precision, folded=False)))
    case = Case(
        "path", f"ResNet-20, {arithmetic}{threads}", size=POINTS * IMAGES, K=POINTS, dtype=precision, unit="images"
    )
    compare(case, Competitor("evaluate_path", lambda: problem.ours(precision)), rivals, step=training_step("ResNet-20"))
