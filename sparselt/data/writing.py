"""Writes a source to betons. A failed or interrupted write never leaves anything that looks like a data set."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import numpy as np

from sparselt.data.beton import Beton
from sparselt.data.encoding import write_beton
from sparselt.data.manifest import FILE_NAME, SPLITS, Manifest, SplitRecord, fingerprint
from sparselt.data.pixels import image_libraries
from sparselt.data.sources import Source, source_record
from sparselt.errors import DataError
from sparselt.files import PARTIAL

_WORKERS_PER_CORE = 8  # several help where the pictures come over a network


def write_dataset(
    source: Source,
    folder: Path | str,
    *,
    workers: int = 1,
    skip_unreadable: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Manifest:
    """Writes train.beton, test.beton and, last, manifest.json into `folder`; returns the Manifest.

    Files are written under hidden temporary names and renamed when all are complete. An error removes them, and a
    folder made for them; the next write removes the files of a killed one. Equal sources give equal bytes for any
    number of workers (processes). FFCV is not needed.

    skip_unreadable: leave out pictures that cannot be decoded and name them in the manifest; otherwise the first one
    ends the write. `progress(split, done, total)` is called now and then.

    DataError: `folder` holds a data set, or another process writes there; a sample (named) cannot be read or written;
    the disk is full; a class has no picture left.
    """
    folder = Path(folder)
    most = _WORKERS_PER_CORE * len(os.sched_getaffinity(0))
    if not 1 <= workers <= most:
        raise DataError(f"{workers} writing processes: ask for 1 to {most}, {_WORKERS_PER_CORE} for each core")
    partials = {name: folder / f".{name}{PARTIAL}" for name in (*(f"{split}.beton" for split in SPLITS), FILE_NAME)}
    _refuse_data_set_in(folder)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]  # innermost first
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error}): choose another folder") from error
    try:
        with _claimed(folder, partials) as manifest_file:
            splits = {
                split: _write_split(source, split, partials[f"{split}.beton"], workers, skip_unreadable, progress)
                for split in SPLITS
            }
            manifest = _manifest(source, splits)
            manifest_file.write(manifest.to_json())
            manifest_file.flush()
            _publish(folder, partials)
            return manifest
    except BaseException as error:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            raise DataError(f"{folder} cannot be written ({error}): free space or choose another folder") from error
        raise


def _refuse_data_set_in(folder: Path) -> None:
    if (folder / FILE_NAME).exists():
        raise DataError(
            f"{folder} already holds a data set ({FILE_NAME}): choose another folder or remove that one first"
        )
    for name in (f"{split}.beton" for split in SPLITS):
        if (folder / name).exists():
            raise DataError(
                f"{folder} holds a {name} without a {FILE_NAME}: choose another folder or remove that file first"
            )


@contextlib.contextmanager
def _claimed(folder: Path, partials: dict[str, Path]) -> Iterator[TextIO]:
    """The manifest's temporary file, locked while the folder is written to, after removing files of a killed write.

    The folder itself is not locked, because the caller may have locked it. An error in the block removes all temporary
    files. DataError where another process writes there, or has finished a data set meanwhile.
    """
    claim = partials[FILE_NAME]
    with open(claim, "a", encoding="utf-8") as file:
        busy = f"{folder} is being written by another process: wait for it or choose another folder"
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(busy) from None
        except OSError:
            pass  # some network file systems have no locks
        if not os.path.samestat(claim.stat(), os.fstat(file.fileno())):
            raise DataError(busy)  # the other write ended, and a third began, between the opening and the lock
        try:
            _refuse_data_set_in(folder)
            # Only dead processes can have begun other files.
            for name in partials:
                for stale in folder.glob(f".{name}*{PARTIAL}"):
                    if stale != claim:
                        stale.unlink()
            file.truncate(0)
            yield file
        except BaseException:
            for path in partials.values():
                path.unlink(missing_ok=True)
            raise


def _publish(folder: Path, partials: dict[str, Path]) -> None:
    """Gives the files their names, the manifest last: all of them or none."""
    renamed: list[Path] = []
    try:
        for name, partial in partials.items():
            os.replace(partial, folder / name)
            renamed.append(folder / name)
    except BaseException:
        for path in renamed:
            path.unlink(missing_ok=True)
        raise


def _write_split(source: Source, split: str, path: Path, workers: int, skip_unreadable: bool, progress) -> SplitRecord:
    samples = source.samples(split)
    total = len(samples)
    if total == 0:
        raise DataError(f"the {split} split of {source.kind} holds no images: expected at least 1")
    written = write_beton(
        source,
        samples,
        path,
        workers=workers,
        skip_unreadable=skip_unreadable,
        progress=(lambda done: progress(split, done, total)) if progress else None,
    )
    if written.skipped:
        counts = np.bincount(Beton(path).labels, minlength=source.classes)
        if not counts.all():
            raise DataError(
                f"no picture of class {source.class_names[int(counts.argmin())]} in the {split} split can be read: "
                f"every class needs at least one, so repair or remove it"
            )
    return SplitRecord(
        file=f"{split}.beton",
        count=written.count,
        bytes=path.stat().st_size,
        fingerprint=fingerprint(path),
        shape=source.image_shape,
        skipped=written.skipped,
        contents=written.contents,
    )


def _manifest(source: Source, splits: dict[str, SplitRecord]) -> Manifest:
    skipped = sum(len(record.skipped) for record in splits.values())
    missing = f" {skipped:,} unreadable pictures were left out." if skipped else ""
    versions = {package: version(package) for package in ("sparselt", "numpy")}
    return Manifest(
        source=source_record(source),
        description=source.describe() + missing,
        synthetic=source.synthetic,
        field=source.field,
        classes=source.classes,
        class_names=tuple(source.class_names),
        normalization=source.normalization(),
        normalization_from=source.normalization_from,
        splits=splits,
        versions=versions | (image_libraries() if source.field == "rgb_image" else {}),
    )
