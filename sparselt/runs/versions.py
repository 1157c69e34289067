"""The versions behind a result, and the format of a store, by which an earlier sparselt refuses a newer one's."""

import contextlib
import functools
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sparselt.errors import StoreError
from sparselt.files import read_object, write_json

FORMAT = 1
"""Of the files in a store. It rises when an earlier sparselt would misread them."""
_NOTE = "format.json"


def note_format(root: Path) -> None:
    """Notes the format in a store that has no note yet. A full disk keeps it from that; the next run does it."""
    if not (root / _NOTE).exists():
        with contextlib.suppress(StoreError):
            write_json(root / _NOTE, {"format": FORMAT, "sparselt": versions().get("sparselt", "")})


def check_format(root: Path) -> None:
    """Checks that this sparselt reads the store in a folder.

    Raises:
        StoreError: a newer one has written it, or its note is damaged.
    """
    path = root / _NOTE
    if not path.exists():
        return
    note = read_object(path)
    found = note.get("format")
    if not isinstance(found, int):
        raise StoreError(f"{path} does not say the format of the store; delete it if no newer sparselt was used here")
    if found > FORMAT:
        raise StoreError(
            f"the store {root} has format {found}, of sparselt {note.get('sparselt') or '(unknown)'}; this is sparselt "
            f"{versions().get('sparselt', '')}, which reads format {FORMAT}: update it, or choose another --out"
        )


def versions() -> dict[str, str]:
    """The versions that decide a result's bits: of Python and the packages."""
    return dict(_versions())


@functools.cache  # looking up a package's version takes a millisecond
def _versions() -> Mapping[str, str]:
    found = {"python": platform.python_version()}
    for package in ("sparselt", "torch", "torchvision", "triton", "numpy", "numba", "ffcv"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
