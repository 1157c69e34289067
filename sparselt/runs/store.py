"""Results on disk, found by the stage's key, so that nothing is computed twice."""

import contextlib
import functools
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from sparselt.errors import StoreError
from sparselt.files import NO_ROOM, holds_progress, is_progress, move_folder, naming_errors
from sparselt.runs.claims import FREEING, PATIENCE, Claim, Claims
from sparselt.runs.versions import check_format, note_format, versions
from sparselt.stages.stage import JsonFile, Stage, StageFile, StageReference

T = TypeVar("T")

_DONE = "stage.json"
_SMALL = 1 << 20  # bytes
_LOOK_SECONDS = 0.1  # seconds between two looks at whether somebody still deletes


class ChangedFileError(StoreError):
    """A file of a stage that is not what the stage has written. It may be right the next time."""


class Store:
    """A folder of results, one folder a stage: `<root>/<kind>/<first 20 digits of the key>/`.

    A stage writes its files into a temporary folder, which is moved into place when it is complete. `stage.json` lists
    the files with their sizes and checksums. So a killed run leaves nothing that counts as done, and files damaged
    later are noticed and made again. Several runs, also on several machines, may share a store: each stage that is
    being made is claimed (`sparselt.runs.claims`).

    Args:
        root: the folder; made if it is missing.
        writable: False: read only.
        patience: seconds without a sign of life after which another run's claim counts no more.

    Raises:
        StoreError: the folder cannot be made or written, or a newer sparselt has written it.
    """

    def __init__(self, root: Path, writable: bool = True, patience: float = PATIENCE):
        self.root = Path(root).resolve()
        self._claims = Claims(self.root / "unfinished", patience)
        self._held: dict[Path, Claim] = {}
        check_format(self.root)
        if not writable:
            return
        with self._naming_errors():
            self.root.mkdir(parents=True, exist_ok=True)
        self.check_writable()
        note_format(self.root)

    def check_writable(self) -> None:
        """Raises StoreError if nothing can be written here, such as in a file system that has become read-only.

        A full disk passes: room may be made while a run goes on.
        """
        with self._naming_errors():
            try:
                with tempfile.NamedTemporaryFile(dir=self.root, prefix=".write-test-"):
                    pass
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise

    def _naming_errors(self) -> contextlib.AbstractContextManager[None]:
        advice = "make it writable or make room, and run the same command again, or choose another with --out"
        return naming_errors(f"output folder {self.root}", advice=advice)

    def folder(self, stage: Stage | StageReference) -> Path:
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
        record = self.record(file.stage)
        if not record:
            _ask_server(folder)
            record = self.record(file.stage)
        made = record.get("files", {}).get(file.name, {})
        if _size(path) != made.get("bytes") or _sha256(path) != made["sha256"]:
            if record:  # else there is none yet, or another machine's is not seen yet
                (folder / _DONE).unlink(missing_ok=True)
            raise StoreError(f"{path} was damaged after it was made; run the same command again, which makes it anew")
        return path

    def record(self, stage: Stage | StageReference) -> dict:
        """The stage's `stage.json`; empty if it is missing or not readable."""
        folder = self.folder(stage)
        return {} if folder.is_symlink() else read_record(folder / _DONE)  # a link may lead out of the store

    def damaged(self, stage: Stage) -> bool:
        """Whether the stage was finished, but its files have changed since. It will be made again."""
        folder = self.folder(stage)
        return (folder / _DONE).exists() and not self.has(replace(stage, outputs=frozenset()))

    def read(self, result: JsonFile[T]) -> T:
        """The content of a JSON file of a finished stage.

        Raises:
            StoreError: the file is not readable, or holds something else.
        """
        path = self.folder(result.stage) / result.name
        try:
            return result.decode(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(f"{path} does not read back ({error}); delete its folder and run again") from error

    def begin(self, stage: Stage) -> Path | None:
        """Claims a stage; None while another process works on it.

        Returns a temporary folder on the store's file system for the files of the stage. It is empty, or that of a
        stopped run which left progress of the stage in it. OSError if the store cannot be written.
        """
        claim = self._claims.take(_name(stage))
        if claim is None:
            return None
        if not holds_progress(claim.folder):
            for left in claim.folder.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        self._held[claim.folder] = claim
        return claim.folder

    @contextlib.contextmanager
    def present(self, run: str) -> Iterator[None]:
        """Shows in the block that a run works with the store, also while none of its stages is being made.

        If stages that no run needs are being deleted (`Inventory.free`), waits for the end of it.
        """
        with self._naming_errors():
            claim = self._claims.take(f"run-{run}-{uuid.uuid4().hex[:8]}")
        try:
            while self._claims.taken(FREEING):
                time.sleep(_LOOK_SECONDS)
            yield
        finally:
            if claim is not None:
                claim.leave(keep=False)

    def taken(self, stage: Stage) -> bool:
        """Whether another process works on the stage. One that shows no sign of life loses its claim here."""
        return self._claims.taken(_name(stage))

    def made_meanwhile(self, stage: Stage) -> bool:
        """The same as `has`, for a process that has just claimed the stage and did not find it before."""
        _ask_server(self.folder(stage))
        return self.has(stage)

    def lost(self, temporary: Path) -> bool:
        """Whether another process has taken a folder of `begin` over."""
        return self._held[temporary].lost

    def started(self, stage: Stage) -> bool:
        """Whether there is progress of the stage, from which a run goes on."""
        return self._claims.started(_name(stage), holds_progress)

    def discard(self, temporary: Path) -> None:
        """Ends the claim of `begin`. Deletes the folder, unless a commit has moved it or it holds progress."""
        self._held.pop(temporary).leave(keep=holds_progress(temporary))

    def commit(
        self,
        stage: Stage,
        temporary: Path,
        *,
        seconds: float,
        work: int,
        finished: str,
        written: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Moves a finished stage's files into place, without its progress. Files of an earlier run stay beside them.

        Args:
            written: SHA-256 of files as the stage wrote them.

        Raises:
            ChangedFileError: one of these reads back as something else. The progress stays.
            StoreError: a wanted output is missing.
        """
        folder = self.folder(stage)
        progress = {path for path in temporary.iterdir() if is_progress(path.name)}
        made = {
            path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
            for path in sorted(temporary.iterdir())
            if path not in progress
        }
        for name, digest in written.items():
            if made.get(name, {}).get("sha256") != digest:
                raise ChangedFileError(
                    f"{temporary / name} does not read back as it was written; it is made again, and if this comes "
                    "again, check the disk"
                )
        missing = stage.outputs - made.keys()
        if missing:
            raise StoreError(f"stage {stage.name} did not make {', '.join(sorted(missing))}")
        record = {
            "kind": stage.kind,
            "key": stage.key,
            "spec": stage.identity_values,
            "needs": {name: [file.stage.kind, file.stage.key, file.name] for name, file in stage.inputs.items()},
            "files": dict(sorted({**self.record(stage).get("files", {}), **made}.items())),
            "seconds": seconds,
            "steps": work,
            "finished": finished,
            "versions": versions(),
            "machine": platform.platform(),
        }
        (temporary / _DONE).write_text(json.dumps(record, indent=1))
        for path in progress:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        move_folder(temporary, folder, last=_DONE)

    def sweep(self) -> None:
        """Deletes unfinished files of killed runs, but not the progress of a stage that is not done.

        What other processes work on stays.
        """

        def of_use(name: str, folder: Path) -> bool:
            kind, _, key = name.rpartition("-")
            return holds_progress(folder) and not (self.root / kind / key / _DONE).exists()

        with self._naming_errors():
            self._claims.sweep(of_use)


def is_intact(path: Path) -> bool:
    """Whether a stage's file has the size and the checksum that its `stage.json` says. A link is none of its files."""
    made = {} if path.parent.is_symlink() else read_record(path.parent / _DONE).get("files", {}).get(path.name)
    return bool(made) and _size(path) == made["bytes"] and _sha256(path) == made["sha256"]


def _ask_server(folder: Path) -> None:
    """Lists a stage's folder, so that the client of a network file system asks the server.

    Otherwise it may answer for a minute from what it remembers.
    """
    for listed in (folder.parent, folder):
        with contextlib.suppress(OSError):
            os.listdir(listed)


def _name(stage: Stage) -> str:
    return f"{stage.kind}-{stage.key[:20]}"


def read_record(path: Path) -> dict:
    """A `stage.json`; empty if it is missing, not readable or incomplete."""
    try:
        record = json.loads(path.read_text())
        for name, made in record["files"].items():
            int(made["bytes"]), str(made["sha256"])
            if Path(name).name != name:
                raise ValueError(f"{name} is no name of a file")
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
        return path.stat().st_size if path.is_file() and not path.is_symlink() else -1
    except OSError:
        return -1
