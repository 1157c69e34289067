"""Reads a folder of pictures in ImageNet's layout."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparselt.errors import DataError

# The endings torchvision.datasets.ImageFolder takes, so that both readers see the same samples in the same order.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_LAYOUT = "expected <root>/train/<class>/* and <root>/val/<class>/*"


@dataclass(frozen=True)
class Scan:
    """What a folder holds: class names in alphabetical order, and the samples of each split."""

    class_names: tuple[str, ...]
    splits: dict


class FolderSamples:
    """Pictures on disk, classes and files in alphabetical order; a sample is (uint8 [H, W, 3], label)."""

    def __init__(self, paths: list[str], labels: list[int]):
        self.paths, self.labels = paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        from PIL import Image

        try:
            with Image.open(self.paths[index]) as picture:
                return np.asarray(picture.convert("RGB")), self.labels[index]
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{self.paths[index]} cannot be read as a picture ({error}): replace or remove it, then write the "
                f"data again"
            ) from error


def scan(root: Path) -> Scan:
    """Lists both splits; DataError where the layout is not ImageNet's or the splits disagree on the classes."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: {_LAYOUT}")
    names = {split: _class_names(root / split) for split in ("train", "val")}
    if names["train"] != names["val"]:
        odd = sorted(set(names["train"]) ^ set(names["val"]))
        raise DataError(
            f"{root} has {len(names['train'])} classes under train and {len(names['val'])} under val; "
            f"only one of them has {', '.join(odd[:3])}: both must hold the same classes"
        )
    return Scan(
        class_names=tuple(names["train"]),
        splits={"train": _list(root / "train", names["train"]), "test": _list(root / "val", names["train"])},
    )


def _class_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: {_LAYOUT}")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not names:
        raise DataError(f"{folder} holds no class folders: {_LAYOUT}")
    return names


def _list(folder: Path, class_names: list[str]) -> FolderSamples:
    paths, labels = [], []
    for label, name in enumerate(class_names):
        found = sorted(
            os.path.join(parent, file)
            for parent, _, files in os.walk(folder / name, followlinks=True)
            for file in files
            if file.lower().endswith(ENDINGS)
        )
        if not found:
            raise DataError(f"{folder / name} holds no pictures ({', '.join(ENDINGS)}): every class needs at least one")
        paths += found
        labels += [label] * len(found)
    return FolderSamples(paths, labels)
