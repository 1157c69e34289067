"""Opens a data set that `write_dataset` wrote, after verifying its files."""

from dataclasses import dataclass
from pathlib import Path

from sparselt.data.beton import beton_count
from sparselt.data.manifest import FILE_NAME, SPLITS, Manifest, SplitRecord, fingerprint
from sparselt.errors import DataError

_WRITE = "write it with `sparselt data write SOURCE ...`"


@dataclass(frozen=True)
class Dataset:
    """A data set on disk whose files have been verified."""

    folder: Path
    manifest: Manifest

    @property
    def classes(self) -> int:
        return self.manifest.classes

    @property
    def synthetic(self) -> bool:
        return self.manifest.synthetic

    def count(self, split: str) -> int:
        return self.record(split).count

    def record(self, split: str) -> SplitRecord:
        """The manifest's record of "train" or "test"; DataError for another name."""
        if split not in self.manifest.splits:
            raise DataError(f"there is no split {split!r}: choose one of {', '.join(self.manifest.splits)}")
        return self.manifest.splits[split]

    def path(self, split: str) -> Path:
        """The beton of a split."""
        return self.folder / self.record(split).file

    def require(
        self, *, classes: int | None = None, shape: tuple[int, int, int] | None = None, field: str | None = None
    ) -> "Dataset":
        """Returns this data set. Raises a DataError if its classes, image shape or field are not those given."""
        record = self.record("train")
        for what, found, expected in (
            ("classes", self.classes, classes),
            ("image shape (channels, height, width)", record.shape, shape),
            ("field", self.manifest.field, field),
        ):
            if expected is not None and found != expected:
                write = _WRITE
                if (what, expected, found) == ("field", "ndarray", "rgb_image"):
                    write = "write the pictures as squares of one size with `sparselt data write pictures ...`"
                raise DataError(
                    f"{self.folder} holds {self.manifest.source['kind']} data: {what} {found}, expected {expected}. "
                    f"Choose the folder of the right data set, or {write}"
                )
        return self


def open_dataset(folder: Path | str) -> Dataset:
    """The data set in `folder`, after verifying its manifest and each beton's size and fingerprint.

    Raises a DataError that says what is wrong and what to do. FFCV may crash on a damaged file, so it never gets one.
    """
    folder = Path(folder)
    layout = f"expected {FILE_NAME} and {', '.join(f'{split}.beton' for split in SPLITS)} there; {_WRITE}"
    if not folder.is_dir():
        raise DataError(f"there is no data folder {folder}: {layout}")
    path = folder / FILE_NAME
    if not path.is_file():
        betons = ", ".join(sorted(file.name for file in folder.glob("*.beton")))
        found = f"found {betons}, which sparselt did not write or not finish" if betons else "nothing of it is there"
        raise DataError(f"{folder} holds no data set ({found}): {layout}")
    try:
        manifest = Manifest.from_json(path.read_text(encoding="utf-8"), path)
        if set(manifest.splits) != set(SPLITS):
            raise DataError(f"{path} names the splits {sorted(manifest.splits)}, expected {sorted(SPLITS)}: {_WRITE}")
        for split in SPLITS:
            _verify(folder, manifest, split)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{folder} cannot be read ({error})") from error
    return Dataset(folder=folder, manifest=manifest)


def _verify(folder: Path, manifest: Manifest, split: str) -> None:
    record = manifest.splits[split]
    path = folder / record.file
    again = f"copy it again, or remove {folder} and {_WRITE}"
    if (folder / "stage.json").exists():  # a run wrote it into its own store
        again = f"remove {folder} and run the same command again, which writes it anew"
    if Path(record.file).name != record.file or not path.is_file():
        raise DataError(f"{path} is missing: {folder / FILE_NAME} names it; {again}")
    size, count = path.stat().st_size, beton_count(path)
    if count is None:
        raise DataError(f"{path} ({size:,} bytes) is not a file of FFCV: {again}")
    if count != record.count:
        raise DataError(
            f"{path} holds {count:,} samples, expected {record.count:,}: it is of another data set; {again}"
        )
    if size < record.bytes:
        raise DataError(f"{path} is truncated: {size:,} bytes, expected {record.bytes:,}; {again}")
    found = fingerprint(path)
    if size != record.bytes or found != record.fingerprint:
        raise DataError(
            f"{path} has changed or is of another data set: {size:,} bytes with fingerprint {found[:12]}, "
            f"expected {record.bytes:,} bytes with {record.fingerprint[:12]}; {again}"
        )
