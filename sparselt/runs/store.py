"""Results on disk, found by the stage's key, so that nothing is computed twice."""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from sparselt.errors import StoreError
from sparselt.files import PROGRESS, move_folder
from sparselt.stages.stage import Made, Result, Stage, StageFile

T = TypeVar("T")

_DONE = "stage.json"
_SMALL = 1 << 20  # bytes


class Store:
    """A folder of results, one folder a stage: `<root>/<kind>/<first 20 digits of the key>/`.

    A stage writes its files into a temporary folder, which is moved into place when it is complete. `stage.json` lists
    the files with their sizes and checksums. So a killed run leaves nothing that counts as done, and files damaged
    later are noticed and made again.

    Args:
        root: the folder; made if it is missing.
        writable: False: read only.

    Raises:
        StoreError: the folder cannot be made or written.
    """

    def __init__(self, root: Path, writable: bool = True):
        self.root = Path(root).resolve()
        self._held: dict[Path, int] = {}
        if not writable:
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".write-test-"):
                pass
        except OSError as error:
            raise StoreError(
                f"output folder {self.root} cannot be written ({error.strerror}); choose another with --out"
            ) from error

    def folder(self, stage: Stage | Made) -> Path:
        """The folder of the stage's files, whether it exists or not."""
        return self.root / stage.kind / stage.key[:20]

    def has(self, stage: Stage) -> bool:
        """Whether every wanted output exists, and all files of the stage are intact.

        Compares sizes, and the checksums of small files; `verify` compares every checksum.
        """
        record, folder = self.record(stage), self.folder(stage)
        if not record:
            return False
        files = record["files"]
        return stage.outputs <= files.keys() and all(
            _size(folder / name) == made["bytes"]
            and (made["bytes"] > _SMALL or _sha256(folder / name) == made["sha256"])
            for name, made in files.items()
        )

    def verify(self, file: StageFile) -> Path:
        """The path of a file, after a comparison of its checksum.

        Raises:
            StoreError: the file was changed. The stage then no longer counts as done.
        """
        folder = self.folder(file.stage)
        path = folder / file.name
        made = self.record(file.stage).get("files", {}).get(file.name, {})
        if _size(path) != made.get("bytes") or _sha256(path) != made["sha256"]:
            (folder / _DONE).unlink(missing_ok=True)
            raise StoreError(f"{path} was damaged after it was made; run the same command again, which makes it anew")
        return path

    def record(self, stage: Stage | Made) -> dict:
        """The stage's `stage.json`; empty if it is missing or not readable."""
        return read_record(self.folder(stage) / _DONE)

    def damaged(self, stage: Stage) -> bool:
        """Whether the stage was finished, but its files have changed since. It will be made again."""
        folder = self.folder(stage)
        return (folder / _DONE).exists() and not self.has(replace(stage, outputs=frozenset()))

    def read(self, result: Result[T]) -> T:
        """The content of a JSON file of a finished stage.

        Raises:
            StoreError: the file is not readable, or holds something else.
        """
        path = self.folder(result.stage) / result.name
        try:
            return result.decode(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(f"{path} does not read back ({error}); delete its folder and run again") from error

    def begin(self, stage: Stage) -> Path:
        """A temporary folder on the store's file system for the files of the stage.

        It is a new one, or that of a killed run which left progress of the stage in it.
        """
        prefix = f"{stage.kind}-{stage.key[:12]}-"
        with _locked(self._unfinished()):
            for left in filter(_holds_progress, self._unfinished().glob(f"{prefix}*")):
                with contextlib.suppress(OSError):  # another process works in it
                    self._held[left] = _lock(left)
                    return left
            folder = Path(tempfile.mkdtemp(dir=self._unfinished(), prefix=prefix))
            # Held while this process lives, so that `sweep` can tell folders in use from those of killed runs.
            self._held[folder] = _lock(folder)
        return folder

    def started(self, stage: Stage) -> bool:
        """Whether a stopped run left progress of the stage, from which it goes on."""
        left = (self.root / "unfinished").glob(f"{stage.kind}-{stage.key[:12]}-*")
        return any(map(_holds_progress, left))

    def discard(self, temporary: Path) -> None:
        """Gives up a folder of `begin`: deletes it, unless a commit has moved it or it holds progress."""
        if not _holds_progress(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
        os.close(self._held.pop(temporary))

    def commit(self, stage: Stage, temporary: Path, *, seconds: float, work: int, finished: str) -> None:
        """Moves a finished stage's files into place. Its files from an earlier run stay beside them."""
        folder = self.folder(stage)
        made = {
            path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(temporary.iterdir())
        }
        missing = stage.outputs - made.keys()
        if missing:
            raise StoreError(f"stage {stage.name} did not make {', '.join(sorted(missing))}")
        record = {
            "kind": stage.kind,
            "key": stage.key,
            "spec": stage.spec,
            "needs": {name: [file.stage.kind, file.stage.key, file.name] for name, file in stage.needs.items()},
            "files": dict(sorted({**self.record(stage).get("files", {}), **made}.items())),
            "seconds": seconds,
            "steps": work,
            "finished": finished,
            "versions": versions(),
            "machine": platform.platform(),
        }
        (temporary / _DONE).write_text(json.dumps(record, indent=1))
        move_folder(temporary, folder, last=_DONE)

    def sweep(self) -> None:
        """Deletes unfinished folders of killed runs.

        Folders in use by a living process stay, and those with the progress of a stage that is not done.
        """
        with _locked(self._unfinished()):
            for leftover in self._unfinished().iterdir():
                kind, key, _ = leftover.name.rsplit("-", 2)
                if _holds_progress(leftover) and not any((self.root / kind).glob(f"{key}*/{_DONE}")):
                    continue
                try:
                    lock = _lock(leftover)
                except OSError:
                    continue
                shutil.rmtree(leftover, ignore_errors=True)
                os.close(lock)

    def _unfinished(self) -> Path:
        folder = self.root / "unfinished"
        folder.mkdir(exist_ok=True)
        return folder


def versions() -> dict[str, str]:
    """The versions that decide a result's bits: of Python and the packages."""
    found = {"python": platform.python_version()}
    for package in ("sparselt", "torch", "torchvision", "triton", "numpy", "numba", "ffcv"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _holds_progress(folder: Path) -> bool:
    return any(folder.glob(f"{PROGRESS}*"))


def _lock(folder: Path) -> int:
    """An open descriptor that holds the folder's lock; OSError if another holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lets one process at a time into the block, for each folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_record(path: Path) -> dict:
    """A `stage.json`; empty if it is missing, not readable or incomplete."""
    try:
        record = json.loads(path.read_text())
        for name, made in record["files"].items():
            str(name), int(made["bytes"]), str(made["sha256"])
        float(record["seconds"]), int(record["steps"]), str(record["finished"]), record["spec"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return record


def _sha256(path: Path) -> str:
    status = path.stat()
    return _sha256_of(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _sha256_of(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1
