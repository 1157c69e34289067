"""`sparselt data`: write a data set to betons, look at one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class WriteDigits:
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels."""

    folder: tyro.conf.Positional[Path]
    """Where to write; made if missing."""


@dataclass(frozen=True)
class WriteSynthetic:
    """Made-up images with a texture for each class, of any count and size."""

    folder: tyro.conf.Positional[Path]
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
    difficulty: float = 0.4
    """Share of noise, in [0, 1)."""
    seed: int = 0
    """Which images."""
    workers: int = 1
    """Writing processes."""


@dataclass(frozen=True)
class WriteImagenet:
    """A folder of pictures in ImageNet's layout: SOURCE/train/CLASS/* and SOURCE/val/CLASS/*."""

    source: tyro.conf.Positional[Path]
    """The folder of pictures."""
    folder: tyro.conf.Positional[Path]
    """Where to write; made if missing."""
    max_resolution: int = 500
    """Longer side of a stored picture in pixels."""
    jpeg_share: float = 0.5
    """Share of pictures stored as JPEG; the others are raw."""
    quality: int = 90
    """JPEG quality."""
    workers: int = 1
    """Writing processes."""


@dataclass(frozen=True)
class Info:
    """Verify the betons of a folder and print what they hold."""

    folder: tyro.conf.Positional[Path]
    """The folder, or a .beton in it."""


Write = (
    Annotated[WriteDigits, tyro.conf.subcommand("digits")]
    | Annotated[WriteSynthetic, tyro.conf.subcommand("synthetic")]
    | Annotated[WriteImagenet, tyro.conf.subcommand("imagenet")]
)


def main(arguments: Sequence[str]) -> int:
    """Runs `sparselt data ARGUMENTS`; returns the exit code. Errors reach the caller as SparseltError."""
    from sparselt.data.cli import info_command, write_command

    if list(arguments[:1]) == ["info"]:
        info_command(tyro.cli(Info, args=arguments[1:], prog="sparselt data info").folder)
        return 0
    if list(arguments[:1]) != ["write"]:
        print("usage: sparselt data write {digits,synthetic,imagenet} ... FOLDER\n       sparselt data info FOLDER")
        return 0 if list(arguments[:1]) in (["-h"], ["--help"]) else 2
    options = tyro.cli(Write, args=arguments[1:], prog="sparselt data write")  # type: ignore[arg-type]
    write_command(_source(options), options.folder, workers=getattr(options, "workers", 1))
    return 0


def _source(options):
    from sparselt.data import Digits, ImageFolder, SyntheticImages

    if isinstance(options, WriteDigits):
        return Digits()
    if isinstance(options, WriteSynthetic):
        return SyntheticImages(
            train_count=options.train,
            test_count=options.test,
            classes=options.classes,
            height=options.height,
            width=options.width,
            difficulty=options.difficulty,
            seed=options.seed,
        )
    return ImageFolder(
        str(options.source),
        max_resolution=options.max_resolution,
        jpeg_share=options.jpeg_share,
        quality=options.quality,
    )
