"""The decorator `@model`: it marks a network's function and states which images the network takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

Build = Callable[[int, int], "nn.Module"]
"""A network as a function of (classes, channels)."""


@dataclass(frozen=True)
class Images:
    """The images that a network takes: channels, and pixels a side, exactly or at least. None: any.

    live: the network has a training step that computes live weights alone (`sparselt.models.sparse_step`).
    """

    channels: int | None = None
    side: int | None = None
    least_side: int = 1
    live: bool = False


_IMAGES: dict[Build, Images] = {}


def model(
    *, channels: int | None = None, side: int | None = None, least_side: int = 1, live: bool = False
) -> Callable[[Build], Build]:
    """Decorates a network's function; the arguments are those of `Images`."""

    def register(build: Build) -> Build:
        _IMAGES[build] = Images(channels, side, least_side, live)
        return build

    return register


def images_of(build: Build) -> Images:
    """The images that a function's network takes, as its `@model` states; any, if it is not decorated."""
    return _IMAGES.get(build, Images())


def decorated(package: str) -> list[Build]:
    """The functions under `@model` in the imported modules of a package, sorted by name."""
    found = [build for build in _IMAGES if build.__module__.startswith(f"{package}.")]
    return sorted(found, key=lambda build: build.__name__)
