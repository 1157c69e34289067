"""Writes a source to betons. Nothing of a failed or interrupted write is ever taken for a data set."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from sparselt.data.ffcv_bridge import require_ffcv
from sparselt.data.manifest import FILE_NAME, Manifest, SplitRecord, beton_count, fingerprint
from sparselt.data.sources import SPLITS, source_record
from sparselt.errors import DataError


def write_dataset(
    source, folder: Path | str, *, workers: int = 1, progress: Callable[[str, int, int], None] | None = None
):
    """Writes train.beton, test.beton and, last, manifest.json into `folder`; returns the Manifest.

    Everything is written under temporary names and renamed when complete; after an error nothing of it is left, and a
    folder made for it is removed. `progress(split, done, total)` is called now and then. With one worker equal sources
    give equal bytes; with more, the order of the pages in the file varies and so does the fingerprint. DataError: FFCV
    missing, a data set already in `folder`, a sample that cannot be read (named), a disk that is full.
    """
    ffcv = require_ffcv()
    folder = Path(folder)
    if workers < 1:
        raise DataError(f"{workers} workers: ask for at least 1")
    if (folder / FILE_NAME).exists():
        raise DataError(
            f"{folder} already holds a data set ({FILE_NAME}): choose another folder or remove that one first"
        )
    missing = _make(folder)
    names = {f"{split}.beton": folder / f".{split}.beton.{os.getpid()}.partial" for split in SPLITS}
    names[FILE_NAME] = folder / f".{FILE_NAME}.{os.getpid()}.partial"
    renamed = []
    try:
        splits = {split: _write_split(source, split, names[f"{split}.beton"], workers, progress) for split in SPLITS}
        manifest = Manifest(
            source=source_record(source),
            description=source.describe(),
            synthetic=source.synthetic,
            field=source.field,
            classes=source.classes,
            class_names=tuple(source.class_names),
            normalization=source.normalization(),
            splits=splits,
            versions={"ffcv": _version("ffcv") or ffcv.__version__, "sparselt": _version("sparselt") or "unknown"},
        )
        names[FILE_NAME].write_text(manifest.to_json(), encoding="utf-8")
        for final, partial in names.items():
            os.replace(partial, folder / final)
            renamed.append(folder / final)
        return manifest
    except BaseException as error:
        for path in (*names.values(), *renamed):
            path.unlink(missing_ok=True)
        for made in missing:
            with contextlib.suppress(OSError):
                made.rmdir()
        if isinstance(error, OSError):
            raise DataError(f"{folder} cannot be written ({error}): free space or choose another folder") from error
        raise


def _make(folder: Path) -> list[Path]:
    """Makes the folder and returns those that were not there, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error}): choose another folder") from error
    return missing


def _write_split(source, split: str, path: Path, workers: int, progress) -> SplitRecord:
    from sparselt.data.beton import write_beton

    samples = source.samples(split)
    write_beton(
        source, samples, path, workers, (lambda done: progress(split, done, len(samples))) if progress else None
    )
    if beton_count(path) != len(samples):
        raise DataError(f"FFCV wrote {beton_count(path)} samples of {len(samples)} to {path}: write the data set again")
    return SplitRecord(
        file=f"{split}.beton",
        count=len(samples),
        bytes=path.stat().st_size,
        fingerprint=fingerprint(path),
        shape=source.image_shape,
    )


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None
