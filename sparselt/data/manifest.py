"""The manifest beside the betons: what they hold, and a fingerprint that tells at once whether they still do."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from sparselt.data.transforms import Normalize
from sparselt.errors import DataError

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"
_BLOCK = 2**20
_BLOCKS = 64


@dataclass(frozen=True)
class SplitRecord:
    """One beton. bytes: its size; shape: (C, H, W), or "variable" where every picture has its own size."""

    file: str
    count: int
    bytes: int
    fingerprint: str
    shape: tuple[int, int, int] | str


@dataclass(frozen=True)
class Manifest:
    """A written data set. source: the source's kind and options; field: "ndarray" or "rgb_image"."""

    source: dict
    description: str
    synthetic: bool
    field: str
    classes: int
    class_names: tuple[str, ...]
    normalization: Normalize
    splits: dict[str, SplitRecord]
    versions: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        """One string for the whole data set: equal if and only if the fingerprints of all betons are."""
        joined = "\n".join(f"{split} {record.fingerprint}" for split, record in sorted(self.splits.items()))
        return hashlib.sha256(joined.encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: Path | str) -> "Manifest":
        """DataError, naming `where`, for anything that `to_json` of this version would not have written."""
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
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{where} is not a manifest of sparselt ({type(error).__name__}: {error}): {advice}"
            ) from error


def fingerprint(path: Path) -> str:
    """sha256 over the size and up to 64 evenly spaced blocks of 1 MiB, the first and the last among them.

    Files up to 64 MiB are hashed whole. Reads at most 64 MiB, so that ImageNet's 100 GB are checked in well under a
    second; a change that falls between the blocks of a larger file is not seen.
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


def beton_count(path: Path) -> int | None:
    """How many samples the header of an FFCV 1.0 file claims; None where the file does not begin like one."""
    # version u16, fields u16, page size u32, samples u64, address of the allocation table u64 (FFCV 1.0.2,
    # ffcv/types.py).
    header = np.dtype([("version", "<u2"), ("fields", "<u2"), ("page", "<u4"), ("count", "<u8"), ("table", "<u8")])
    with open(path, "rb") as file:
        start = file.read(header.itemsize)
    if len(start) < header.itemsize:
        return None
    (values,) = np.frombuffer(start, dtype=header)
    page = int(values["page"])
    return int(values["count"]) if values["version"] == 2 and page >= 2**21 and page & (page - 1) == 0 else None


def _split_record(record: dict) -> SplitRecord:
    shape = record["shape"]
    return SplitRecord(**{**record, "shape": shape if isinstance(shape, str) else tuple(shape)})
