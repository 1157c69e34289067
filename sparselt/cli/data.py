"""`sparselt data`: write a data set to betons, look at one."""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Folder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]


class _Writes:
    """A command that writes the data set of a source."""

    def run(self, given: Sequence[str]) -> int:
        """Writes it; returns the exit code, 130 when interrupted."""
        from sparselt.data.cli import write_command

        # As Ctrl-C: what was begun is removed. Batch systems and `timeout` send this one.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            write_command(
                _source(self),
                self.folder,
                workers=getattr(self, "workers", 1),
                skip_unreadable=getattr(self, "skip_unreadable", False),
            )
        except KeyboardInterrupt:
            print(f"\ninterrupted; nothing was written to {self.folder}", file=sys.stderr)
            return 130
        finally:
            signal.signal(signal.SIGTERM, before)
        return 0


@dataclass(frozen=True)
class WriteDigits(_Writes):
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels; nothing is downloaded."""

    folder: Folder
    """Where to write; made if missing."""
    test: int = 500
    """Digits to test on; the others are trained on."""
    split_seed: int = 0
    """Which digits are which."""


@dataclass(frozen=True)
class _Downloaded(_Writes):
    folder: Folder
    """Where to write; made if missing."""
    source: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of torchvision's files; what is missing is downloaded into it (default: ~/.cache/sparselt)."""
    workers: int = 1
    """Writing processes; the files are the same for any number."""


@dataclass(frozen=True)
class WriteCIFAR10(_Downloaded):
    """CIFAR-10: 50,000 and 10,000 images of 32 x 32 pixels, 10 classes (170 MB to download)."""


@dataclass(frozen=True)
class WriteCIFAR100(_Downloaded):
    """CIFAR-100: 50,000 and 10,000 images of 32 x 32 pixels, 100 classes (169 MB to download)."""


@dataclass(frozen=True)
class WriteMNIST(_Downloaded):
    """MNIST: 60,000 and 10,000 images of 28 x 28 pixels, 10 classes (12 MB to download)."""


@dataclass(frozen=True)
class WriteImagenet(_Writes):
    """A folder of pictures in ImageNet's layout: SOURCE/train/CLASS/* and SOURCE/val/CLASS/*.

    The defaults are those of ffcv-imagenet for ResNet-50 (`write_imagenet.sh 500 0.50 90`).
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
    """The folder of pictures."""
    folder: Folder
    """Where to write; made if missing."""
    max_resolution: int = 500
    """Longer side of a stored picture in pixels; larger ones are reduced, smaller ones are kept."""
    jpeg_share: Annotated[float, tyro.conf.arg(aliases=["--compress-probability"])] = 0.5
    """Share of pictures stored as JPEG (1: all); the others are raw: larger, and read without decoding."""
    quality: Annotated[int, tyro.conf.arg(aliases=["--jpeg-quality"])] = 90
    """JPEG quality, 1 to 100."""
    seed: int = 0
    """Which pictures become JPEG."""
    workers: Annotated[int, tyro.conf.arg(aliases=["--num-workers"])] = 1
    """Writing processes; the files are the same for any number."""
    skip_unreadable: bool = False
    """Leave out pictures that cannot be decoded and name them in the manifest, instead of stopping at the first."""


@dataclass(frozen=True)
class WriteSynthetic(_Writes):
    """Made-up images with a texture for each class, of any count and size; nothing is downloaded."""

    folder: Folder
    """Where to write; made if missing."""
    train: int = 10_000
    """Training images."""
    test: int = 1_000
    """Test images."""
    classes: int = 10
    """Number of classes."""
    height: int = 96
    """Pixels."""
    width: int = 112
    """Pixels."""
    channels: int = 3
    """Colours; other than 3 only with --storage raw."""
    difficulty: float = 0.4
    """Share of noise, in [0, 1)."""
    seed: int = 0
    """Which images."""
    storage: Literal["jpeg", "raw"] = "jpeg"
    """jpeg: pictures to be streamed, as ImageNet's; raw: arrays to be kept in memory, as CIFAR's."""
    quality: int = 90
    """JPEG quality, 1 to 100."""
    workers: int = 1
    """Writing processes; the files are the same for any number."""


@dataclass(frozen=True)
class Info:
    """Verify the betons of a folder, print what they hold and draw some samples."""

    folder: Folder
    """The folder, or a .beton in it."""
    sheet: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """PNG file for the samples; FOLDER/samples.png without it."""
    json: bool = False
    """Print the manifest as JSON, for scripts; no samples are drawn unless --sheet is given."""
    verify: bool = False
    """Compare every sample with the manifest: minutes for ImageNet. Otherwise 64 MiB of each file are compared."""

    def run(self, given: Sequence[str]) -> int:
        """Prints what the folder holds; returns the exit code."""
        from sparselt.data.cli import info_command

        info_command(self.folder, sheet=self.sheet, as_json=self.json, verify=self.verify)
        return 0


Write = (
    Annotated[WriteDigits, tyro.conf.subcommand("digits")]
    | Annotated[WriteCIFAR10, tyro.conf.subcommand("cifar10")]
    | Annotated[WriteCIFAR100, tyro.conf.subcommand("cifar100")]
    | Annotated[WriteMNIST, tyro.conf.subcommand("mnist")]
    | Annotated[WriteImagenet, tyro.conf.subcommand("imagenet")]
    | Annotated[WriteSynthetic, tyro.conf.subcommand("synthetic")]
)


def _source(options):
    from sparselt.data import CIFAR10, CIFAR100, MNIST, Digits, ImageFolder, SyntheticImages

    if isinstance(options, WriteDigits):
        return Digits(test_count=options.test, split_seed=options.split_seed)
    if isinstance(options, _Downloaded):
        reader = {WriteCIFAR10: CIFAR10, WriteCIFAR100: CIFAR100, WriteMNIST: MNIST}[type(options)]
        return reader(root=None if options.source is None else str(options.source))
    if isinstance(options, WriteSynthetic):
        return SyntheticImages(
            train_count=options.train,
            test_count=options.test,
            classes=options.classes,
            height=options.height,
            width=options.width,
            channels=options.channels,
            difficulty=options.difficulty,
            seed=options.seed,
            storage=options.storage,
            quality=options.quality,
        )
    return ImageFolder(
        str(options.source),
        max_resolution=options.max_resolution,
        jpeg_share=options.jpeg_share,
        quality=options.quality,
        seed=options.seed,
    )
