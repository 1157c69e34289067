"""Writes a source to betons. Nothing of a failed or interrupted write is ever taken for a data set."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from sparselt.data.beton import Beton
from sparselt.data.encoding import write_beton
from sparselt.data.manifest import FILE_NAME, SPLITS, Manifest, SplitRecord, fingerprint
from sparselt.data.pixels import image_libraries
from sparselt.data.sources import source_record
from sparselt.errors import DataError

_WORKERS_PER_CORE = 8  # more than one pays where the pictures come over a network
_PARTIAL = ".partial"


def write_dataset(
    source,
    folder: Path | str,
    *,
    workers: int = 1,
    skip_unreadable: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Manifest:
    """Writes train.beton, test.beton and, last, manifest.json into `folder`; returns the Manifest.

    Everything is written under hidden temporary names and renamed when complete; after an error nothing of it is left,
    and a folder made for it is removed. What a killed write left is removed by the next one. Equal sources give equal
    bytes, whatever the number of workers (processes); FFCV is not needed.

    skip_unreadable: leave out pictures that cannot be decoded and name them in the manifest; otherwise the first one
    ends the write. `progress(split, done, total)` is called now and then.

    DataError: a data set already in `folder`, another process writing there, a sample that cannot be read or written
    (named), a full disk, a class of which nothing is left.
    """
    folder = Path(folder)
    most = _WORKERS_PER_CORE * len(os.sched_getaffinity(0))
    if not 1 <= workers <= most:
        raise DataError(f"{workers} writing processes: ask for 1 to {most}, {_WORKERS_PER_CORE} for each core")
    partials = {name: folder / f".{name}{_PARTIAL}" for name in (*(f"{split}.beton" for split in SPLITS), FILE_NAME)}
    _refuse_data_set_in(folder)
    made = _make(folder)
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
        for parent in made:
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


def _make(folder: Path) -> list[Path]:
    """Makes the folder and returns those that were not there, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error}): choose another folder") from error
    return missing


@contextlib.contextmanager
def _claimed(folder: Path, partials: dict[str, Path]) -> Iterator[TextIO]:
    """The manifest's temporary file, locked while the folder is written to, after clearing what a killed write left.

    The folder itself is not locked: who asks for the data set may have done so. After an error in the block all
    temporary files are removed. DataError where another process writes there, or a data set is there by now.
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
            raise DataError(busy)  # it ended, and the next began, between the opening and the lock
        try:
            _refuse_data_set_in(folder)
            # Whoever began other files is no more.
            for name in partials:
                for stale in folder.glob(f".{name}*{_PARTIAL}"):
                    if stale != claim:
                        stale.unlink()
            file.truncate(0)
            yield file
        except BaseException:
            for path in partials.values():
                path.unlink(missing_ok=True)
            raise


def _publish(folder: Path, partials: dict[str, Path]) -> None:
    """Gives the files their names, the manifest last; all or none."""
    renamed: list[Path] = []
    try:
        for name, partial in partials.items():
            os.replace(partial, folder / name)
            renamed.append(folder / name)
    except BaseException:
        for path in renamed:
            path.unlink(missing_ok=True)
        raise


def _write_split(source, split: str, path: Path, workers: int, skip_unreadable: bool, progress) -> SplitRecord:
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
        _check_classes(source, split, path)
    return SplitRecord(
        file=f"{split}.beton",
        count=written.count,
        bytes=path.stat().st_size,
        fingerprint=fingerprint(path),
        shape=source.image_shape,
        skipped=written.skipped,
        contents=written.contents,
    )


def _check_classes(source, split: str, path: Path) -> None:
    counts = np.bincount(Beton(path).labels, minlength=source.classes)
    if not counts.all():
        empty = source.class_names[int(counts.argmin())]
        raise DataError(
            f"no picture of class {empty} in the {split} split can be read: every class needs at least one, so repair "
            f"or remove it"
        )


def _manifest(source, splits: dict[str, SplitRecord]) -> Manifest:
    skipped = sum(len(record.skipped) for record in splits.values())
    missing = f" {skipped:,} unreadable pictures were left out." if skipped else ""
    versions = {package: _version(package) for package in ("sparselt", "numpy")}
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


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
