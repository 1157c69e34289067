"""`MODELS`: every function under `@model` in a module of this folder, found when it is first asked for."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

Build = Callable[[int, int], "nn.Module"]
"""A network as a function of (classes, channels)."""


@dataclass(frozen=True)
class Images:
    """Which images a network takes: how many channels and pixels a side; None: any."""

    channels: int | None = None
    side: int | None = None
    least_side: int = 1


_IMAGES: dict[Build, Images] = {}


def model(*, channels: int | None = None, side: int | None = None, least_side: int = 1) -> Callable[[Build], Build]:
    """Decorates a network's function: says which images it takes, and in a module of this folder registers it."""

    def register(build: Build) -> Build:
        _IMAGES[build] = Images(channels, side, least_side)
        return build

    return register


def images_of(build: Build) -> Images:
    """What `@model` says of a function; without it, any images."""
    return _IMAGES.get(build, Images())


class _Models(Mapping[str, Build]):
    """The modules import torch, so they wait until a name is looked up."""

    def __getitem__(self, name: str) -> Build:
        return _found()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_found())

    def __len__(self) -> int:
        return len(_found())


MODELS: Mapping[str, Build] = _Models()


@functools.cache
def _found() -> dict[str, Build]:
    package = importlib.import_module(__package__ or "")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    own = [build for build in _IMAGES if build.__module__.startswith(f"{package.__name__}.")]
    return {build.__name__: build for build in sorted(own, key=lambda build: build.__name__)}
