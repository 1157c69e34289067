"""The manifest beside the betons: their contents, and fingerprints by which a change is noticed quickly."""

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass
from dataclasses import field as dataclass_field
from pathlib import Path

import numpy as np

from sparselt.data.beton import Beton
from sparselt.data.transforms import Normalize
from sparselt.errors import DataError

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"
SPLITS = ("train", "test")
_BLOCK = 2**20
_BLOCKS = 64


@dataclass(frozen=True)
class SplitRecord:
    """One beton. bytes: its size; shape: (C, H, W), or "variable" where every picture has its own size.

    skipped: names of unreadable pictures that were left out. contents: a checksum of every sample's label and stored
    bytes; the fingerprint of a large file covers only some.
    """

    file: str
    count: int
    bytes: int
    fingerprint: str
    shape: tuple[int, int, int] | str
    skipped: tuple[str, ...] = ()
    contents: str = ""

    @property
    def array_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image. DataError where each has its own size."""
        if isinstance(self.shape, str):
            raise DataError(f"{self.file} holds pictures of {self.shape} size, where arrays of one size are expected")
        return self.shape


@dataclass(frozen=True)
class Manifest:
    """A written data set. source: the source's kind and options; field: "ndarray" or "rgb_image".

    normalization_from: which images the mean and the standard deviation are of.
    """

    source: dict
    description: str
    synthetic: bool
    field: str
    classes: int
    class_names: tuple[str, ...]
    normalization: Normalize
    splits: dict[str, SplitRecord]
    versions: dict[str, str] = dataclass_field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    normalization_from: str = ""

    @property
    def fingerprint(self) -> str:
        """One string for the whole data set: equal if and only if the fingerprints of all betons are."""
        joined = "\n".join(f"{split} {record.fingerprint}" for split, record in sorted(self.splits.items()))
        return hashlib.sha256(joined.encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: Path | str) -> "Manifest":
        """The manifest from the text that `to_json` wrote. Raises a DataError, naming `where`, for any other text."""
        advice = "write the data set again with `sparselt data write ...`"
        try:
            record = json.loads(text)
            version = record["format_version"]
            if version != FORMAT_VERSION:
                raise DataError(f"{where} has format version {version}, this sparselt reads {FORMAT_VERSION}: {advice}")
            normalization = record["normalization"]
            record["normalization"] = Normalize(
                mean=tuple(normalization["mean"]), std=tuple(normalization["std"]), scale=normalization["scale"]
            )
            record["splits"] = {name: _split_record(split) for name, split in record["splits"].items()}
            record["class_names"] = tuple(record["class_names"])
            return cls(**record)
        except DataError:
            raise
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{where} is not a manifest of sparselt ({type(error).__name__}: {error}): {advice}"
            ) from error


def fingerprint(path: Path) -> str:
    """sha256 over the size and up to 64 evenly spaced blocks of 1 MiB, the first and the last among them.

    Reads at most 64 MiB, so that ImageNet's 100 GB are checked in well under a second. Smaller files are hashed whole;
    a change between the blocks of a larger file is not noticed.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= _BLOCK * _BLOCKS:
            digest.update(file.read())
        else:
            for block in range(_BLOCKS):
                file.seek((size - _BLOCK) * block // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def contents_of(labels: np.ndarray, sums: np.ndarray) -> str:
    """A checksum of a whole split, from the label and the CRC32 of the stored bytes of each sample."""
    return hashlib.sha256(labels.astype("<i8").tobytes() + sums.astype("<u4").tobytes()).hexdigest()


def contents(path: Path) -> str:
    """`contents_of` a beton: reads every sample, which takes minutes for ImageNet."""
    beton = Beton(path)
    sums = np.array([zlib.crc32(beton.stored(index).data) for index in range(len(beton))], dtype=np.uint32)
    return contents_of(beton.labels, sums)


def _split_record(record: dict) -> SplitRecord:
    shape, skipped = record["shape"], tuple(record.get("skipped", ()))
    return SplitRecord(**{**record, "shape": shape if isinstance(shape, str) else tuple(shape), "skipped": skipped})
