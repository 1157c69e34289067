"""Atomic writes: under a temporary name beside the target, then moved into place.

A reader sees the old file or the new one, never a part. A killed process may leave a file whose name begins with a dot
and ends in `.partial`.
"""

import contextlib
import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict, Unpack

from sparselt.errors import SparseltError, StoreError

PARTIAL = ".partial"
PROGRESS = "progress-"
"""Files of an unfinished stage whose names begin so: a later run of the stage goes on from them."""
DAMAGED = "damaged-"
"""Before the name of such a file once it was found to be damaged."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers of a disk that is full, and of a user's share of it."""


class OnError(TypedDict, total=False):
    """How to report a failed write: the error to raise, what is written (default: the path), and what to do."""

    error: type[SparseltError]
    what: str
    advice: str


def names_in(folder: Path) -> list[str]:
    """The names in a folder; none if it is gone. Another process may remove it at any moment, also within a glob."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def holds_progress(folder: Path) -> bool:
    """Whether progress of an unfinished stage stands in a folder."""
    return any(name.startswith(PROGRESS) for name in names_in(folder))


def is_progress(name: str) -> bool:
    """Whether an unfinished stage's file of this name is its progress, damaged or not."""
    return name.startswith((PROGRESS, DAMAGED + PROGRESS))


def write_bytes(path: Path | str, data: bytes, **on_error: Unpack[OnError]) -> None:
    """Writes bytes to a file, new or not. If that fails, raises StoreError or the error of `OnError`."""
    on_error.setdefault("what", str(path))
    with naming_errors(**on_error), replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str, **on_error: Unpack[OnError]) -> None:
    """Writes text in UTF-8, line ends as they are. Errors as for `write_bytes`."""
    write_bytes(path, text.encode("utf-8"), **on_error)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if it is missing, not readable, or something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path | str, value: object, **on_error: Unpack[OnError]) -> None:
    """Writes JSON in UTF-8, indented by 1, with a line end. Errors as for `write_bytes`."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", **on_error)


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path` when the block ends, and is removed when the block raises.

    For several files that belong together, enter one block each (`contextlib.ExitStack`): all are written before any is
    moved.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{PARTIAL}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)  # a failed write names no file
        raise


@contextlib.contextmanager
def naming_errors(what: str, error: type[SparseltError] = StoreError, advice: str = "") -> Iterator[None]:
    """Turns an OSError of the block into `error`, whose message has `what`, the reason and `advice`."""
    try:
        yield
    except OSError as failure:
        reason = failure.strerror or failure
        message = f"{what} cannot be written"
        raise error(f"{message} ({reason}); {advice}" if advice else f"{message}: {reason}") from failure


def move_folder(made: Path, folder: Path, last: str = "") -> None:
    """Moves a finished folder to `folder`, on the same file system. Makes parents; OSError if that fails.

    One step if `folder` does not exist. Otherwise file by file: files of equal name are replaced, others stay. The file
    `last`, which tells readers that the folder is complete, comes last. A file in place of a folder is removed. So is a
    link in place of `folder`, which may lead elsewhere.
    """
    for place in (folder.parent, folder):
        if os.path.lexists(place) and (not place.is_dir() or (place == folder and place.is_symlink())):
            place.unlink()
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(made, folder)
    except OSError:
        for path in sorted(made.iterdir(), key=lambda path: path.name == last):
            target = folder / path.name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            os.replace(path, target)
        made.rmdir()
