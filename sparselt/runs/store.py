"""Results on disk, found again by the stage's key: what exists, complete, is never computed twice."""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sparselt.errors import StoreError
from sparselt.runs.stage import Stage, plain

_DONE = "stage.json"


class Store:
    """A folder of results, one folder a stage: `<root>/<kind>/<first 20 digits of the key>/`.

    A stage's files are made in a temporary folder and moved into place when they are complete; `stage.json`, which
    names them with their sizes, comes with them. So a killed run leaves nothing that counts as done.

    Args:
        root: the folder; made if it is missing.
        writable: False only looks: nothing is made or written.

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

    def folder(self, stage: Stage) -> Path:
        """Where the stage's files stand, or would stand."""
        return self.root / stage.kind / stage.key[:20]

    def has(self, stage: Stage) -> bool:
        """True if every wanted output is there, whole."""
        files = self.record(stage).get("files", {})
        folder = self.folder(stage)
        return stage.outputs <= files.keys() and all(_size(folder / name) == files[name] for name in stage.outputs)

    def record(self, stage: Stage) -> dict:
        """The stage's `stage.json`; empty if there is none."""
        try:
            return json.loads((self.folder(stage) / _DONE).read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{self.folder(stage) / _DONE} does not read back ({error}); delete its folder and run again"
            ) from error

    def read(self, stage: Stage, name: str) -> dict:
        """A JSON output of a finished stage."""
        path = self.folder(stage) / name
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} does not read back ({error}); delete its folder and run again") from error

    def begin(self, stage: Stage) -> Path:
        """A fresh temporary folder on the store's file system, for the stage's function to write into."""
        with _locked(self._unfinished()):
            folder = Path(tempfile.mkdtemp(dir=self._unfinished(), prefix=f"{stage.kind}-{stage.key[:12]}-"))
            # Held while this process lives: so `sweep` knows a folder in use from one that a killed run left.
            self._held[folder] = _lock(folder)
        return folder

    def discard(self, temporary: Path) -> None:
        """Deletes what is left of a folder of `begin`; after a commit nothing is."""
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(self._held.pop(temporary))

    def commit(self, stage: Stage, temporary: Path, *, seconds: float, steps: int, finished: str) -> None:
        """Moves a finished stage's files into place; if an earlier run left others of its files there, both stay."""
        folder = self.folder(stage)
        made = {path.name: path.stat().st_size for path in temporary.iterdir()}
        missing = stage.outputs - made.keys()
        if missing:
            raise StoreError(f"stage {stage.label or stage.kind} did not make {', '.join(sorted(missing))}")
        record = {
            "kind": stage.kind,
            "key": stage.key,
            "spec": plain(stage.spec),
            "needs": {name: [need.stage.kind, need.stage.key, need.file] for name, need in stage.needs.items()},
            "files": dict(sorted({**self.record(stage).get("files", {}), **made}.items())),
            "seconds": seconds,
            "steps": steps,
            "finished": finished,
            "versions": versions(),
            "machine": platform.platform(),
        }
        (temporary / _DONE).write_text(json.dumps(record, indent=1))
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(temporary, folder)
        except OSError:
            for name in made:
                os.replace(temporary / name, folder / name)
            os.replace(temporary / _DONE, folder / _DONE)
            shutil.rmtree(temporary, ignore_errors=True)

    def sweep(self) -> None:
        """Deletes what runs that were killed left unfinished; what a living process is working on stays."""
        with _locked(self._unfinished()):
            for leftover in self._unfinished().iterdir():
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
    """Versions of what decides a result's bits: the packages and Python."""
    found = {"python": platform.python_version()}
    for package in ("sparselt", "torch", "torchvision", "triton", "numpy", "numba", "ffcv"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _lock(folder: Path) -> int:
    """An open descriptor that holds the folder's lock; OSError if another one does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Waits until no other process stands in the same block for `folder`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
