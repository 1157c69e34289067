"""Reads a folder of pictures in ImageNet's layout."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparselt.data.beton import check_index
from sparselt.errors import DataError

# The endings torchvision.datasets.ImageFolder takes, so that both readers see the same samples in the same order.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_LAYOUT = "expected <root>/train/<class>/* and <root>/val/<class>/*"


class UnreadableImage(DataError):
    """A picture that cannot be decoded: what `write_dataset(..., skip_unreadable=True)` leaves out."""


@dataclass(frozen=True)
class Scan:
    """What a folder holds: class names in alphabetical order, and the samples of each split."""

    class_names: tuple[str, ...]
    splits: dict


class FolderSamples:
    """Pictures on disk, classes and files in alphabetical order; a sample is (uint8 [H, W, 3], label).

    A picture is named by its path below `root`. UnreadableImage where it cannot be decoded.
    """

    def __init__(self, root: Path, paths: list[str], labels: list[int]):
        self.root, self.paths, self.labels = root, paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return Path(self.paths[index]).relative_to(self.root).as_posix()

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        from PIL import Image

        check_index(index, len(self), str(self.root))
        try:
            with Image.open(self.paths[index]) as picture:
                return np.asarray(picture.convert("RGB")), self.labels[index]
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UnreadableImage(
                f"{self.paths[index]} cannot be read as a picture ({error}): replace or remove it, or leave out all "
                f"such pictures with --skip-unreadable"
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
        splits={split: _list(root, folder, names["train"]) for split, folder in (("train", "train"), ("test", "val"))},
    )


def _class_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: {_LAYOUT}")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not names:
        raise DataError(f"{folder} holds no class folders: {_LAYOUT}")
    return names


def _list(root: Path, split_folder: str, class_names: list[str]) -> FolderSamples:
    folder, paths, labels = root / split_folder, [], []
    for label, name in enumerate(class_names):
        found = sorted(
            (parent, file)
            for parent, _, files in os.walk(folder / name, followlinks=True)
            for file in files
            if file.lower().endswith(ENDINGS)
        )
        if not found:
            raise DataError(f"{folder / name} holds no pictures ({', '.join(ENDINGS)}): every class needs at least one")
        paths += [os.path.join(parent, file) for parent, file in found]
        labels += [label] * len(found)
    return FolderSamples(root, paths, labels)
