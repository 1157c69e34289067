"""The .beton file: FFCV's format, version 2 (ffcv/types.py, ffcv/fields of FFCV 1.0.2), written and read without FFCV.

Every file here has two fields, "image" (fixed-size arrays, or pictures that are raw or JPEG) and "label". A header and
the description of the fields come first, then a table with one row a sample. The samples' bytes follow in pages; no
sample crosses the border of two pages. A list of (sample, address, size) ends the file.
"""

import io
import json
import math
import os
from pathlib import Path

import numpy as np

from sparselt.errors import DataError, naming_extras

VERSION = 2
SMALLEST_PAGE, LARGEST_PAGE = 2**21, 2**31
FIELDS = ("image", "label")
RAW, JPEG = 1, 0  # the modes of a picture
LONGEST_SIDE = 2**16 - 1  # of a picture: its row has two bytes for each side

_HEADER = np.dtype([("version", "<u2"), ("fields", "<u2"), ("page", "<u4"), ("count", "<u8"), ("allocations", "<u8")])
_FIELD = np.dtype([("kind", "u1"), ("name", "u1", 16), ("arguments", "u1", 1024)])
_ARRAY_ARGUMENTS = np.dtype([("shape", "<u8", 32), ("length", "<u8")])
_ALLOCATION = np.dtype([("sample", "<u8"), ("address", "<u8"), ("size", "<u8")])
_INTEGER, _PICTURE, _ARRAY = 1, 2, 4  # FFCV's numbers for the kinds of fields
_PICTURE_ROW = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("address", "<u8")])

ROWS = {
    "ndarray": np.dtype([("image", "<u8"), ("label", "<i8")], align=True),
    "rgb_image": np.dtype([("image", _PICTURE_ROW), ("label", "<i8")], align=True),
}


def beton_count(path: Path) -> int | None:
    """The number of samples that the header of an FFCV 1.0 file states; None if the file has no such header."""
    with open(path, "rb") as file:
        start = file.read(_HEADER.itemsize)
    if len(start) < _HEADER.itemsize:
        return None
    (header,) = np.frombuffer(start, dtype=_HEADER)
    page = int(header["page"])
    right = header["version"] == VERSION and page >= SMALLEST_PAGE and page & (page - 1) == 0
    return int(header["count"]) if right else None


class Pages:
    """Gives samples their addresses, one after another and none across two pages. Equal sizes give equal addresses."""

    def __init__(self, field: str, capacity: int, page_size: int):
        """capacity: the most samples there can be; the table before the pages has room for them."""
        table = _HEADER.itemsize + 2 * _FIELD.itemsize + capacity * ROWS[field].itemsize
        self.start = -(-table // page_size) * page_size
        self.page_size, self._used = page_size, 0

    @property
    def end(self) -> int:
        """Where the last page ends."""
        return self.start + -(-self._used // self.page_size) * self.page_size

    def place(self, size: int) -> int:
        """The address of the next sample. ValueError where it does not fit a page."""
        if not 0 < size <= self.page_size:
            raise ValueError(f"{size:,} bytes do not fit a page of {self.page_size:,}")
        left = -self._used % self.page_size
        if size > left:
            self._used += left
        address = self.start + self._used
        self._used += size
        return address


def page_size_for(shape: tuple[int, int, int] | str) -> int:
    """FFCV's default of 8 MiB; 2 MiB for small images, to keep files of few images small; more for larger arrays."""
    if isinstance(shape, str):
        return 4 * SMALLEST_PAGE
    size = math.prod(shape)
    return SMALLEST_PAGE if size <= 64 * 1024 else max(4 * SMALLEST_PAGE, 1 << (size - 1).bit_length())


def write_around_pages(
    file, field: str, shape: tuple[int, int, int] | str, pages: Pages, rows: np.ndarray, sizes: np.ndarray
) -> None:
    """Completes a file whose pages are written. Adds the header, the descriptions, the table and the final list.

    rows: of ROWS[field], one a sample; sizes: bytes of each sample.
    """
    fields = np.zeros(2, dtype=_FIELD)
    for row, kind, name in zip(fields, (_ARRAY if field == "ndarray" else _PICTURE, _INTEGER), FIELDS, strict=True):
        row["kind"] = kind
        row["name"][: len(name)] = np.frombuffer(name.encode("ascii"), dtype="u1")
    if field == "ndarray" and not isinstance(shape, str):
        arguments = _array_arguments(shape)
        fields[0]["arguments"][: len(arguments)] = arguments
    header = np.zeros(1, dtype=_HEADER)
    header[0] = (VERSION, len(fields), pages.page_size, len(rows), pages.end)
    allocations = np.zeros(len(rows), dtype=_ALLOCATION)
    allocations["sample"], allocations["address"], allocations["size"] = np.arange(len(rows)), addresses_of(rows), sizes
    file.truncate(pages.end)  # the rest of the last page
    file.seek(0)
    file.write(header.tobytes() + fields.tobytes() + rows.tobytes())
    file.seek(pages.end)
    file.write(allocations.tobytes())


class Beton:
    """A beton open for reading, also from several threads.

    Attributes: `count`; `labels`, int64 [N]; `field`, "ndarray" or "rgb_image"; `shape`, (C, H, W) of arrays.

    The file is read and not mapped into memory, because truncating a mapped file ends the process.

    Raises:
        DataError: a file that `write_dataset` did not write; a sample that lies outside the file; a file that is
            truncated while it is open.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        try:
            if beton_count(self.path) is None:
                raise DataError(f"{self.path} is not a file of FFCV")
            self._file = open(self.path, "rb")  # noqa: SIM115 (for as long as this lives)
            self._length = os.fstat(self._file.fileno()).st_size
            (header,) = self._read(0, _HEADER, 1)
            fields = self._read(_HEADER.itemsize, _FIELD, int(header["fields"]))
            names = tuple(field["name"].tobytes().rstrip(b"\0").decode("ascii") for field in fields)
            image, label = (int(field["kind"]) for field in fields)
            self.field = {(_ARRAY, _INTEGER): "ndarray", (_PICTURE, _INTEGER): "rgb_image"}[image, label]
            if names != FIELDS:
                raise ValueError(f"it has the fields {', '.join(names)}")
            self.count = int(header["count"])
            self.shape = _array_shape(fields[0]["arguments"]) if self.field == "ndarray" else ()
            self._rows = self._read(_HEADER.itemsize + fields.nbytes, ROWS[self.field], self.count)
            allocations = self._read(int(header["allocations"]), _ALLOCATION, self.count)
            self._sizes = np.zeros(self.count, dtype=np.int64)
            self._sizes[allocations["sample"]] = allocations["size"]
        except OSError as error:
            raise DataError(f"{self.path} cannot be read ({error})") from error
        except (ValueError, KeyError, IndexError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{self.path} is not a beton of sparselt ({error}): write the data set again") from error
        self.labels = self._rows["label"].astype(np.int64)

    def __len__(self) -> int:
        return self.count

    def stored(self, index: int) -> np.ndarray:
        """The bytes of a sample as they stand in the file, uint8 [size]. SampleIndexError outside 0 to count - 1."""
        check_index(index, self.count, str(self.path))
        address, size = int(addresses_of(self._rows)[index]), int(self._sizes[index])
        if size < 1 or address + size > self._length:
            raise DataError(f"{self.path}: sample {index} lies outside the file: write the data set again")
        found = os.pread(self._file.fileno(), size, address)
        if len(found) < size:
            raise DataError(f"{self.path} was cut while it was read, before sample {index}: write the data set again")
        return np.frombuffer(found, np.uint8)

    def image(self, index: int) -> np.ndarray:
        """uint8 [C, H, W] of an array, [H, W, 3] of a picture; JPEG is decoded by Pillow."""
        stored = self.stored(index)
        if self.field == "ndarray":
            return self._shaped(stored, self.shape, index)
        if self.is_jpeg(index):
            return self.decoded(stored, *self.size(index), index)
        return self._shaped(stored, (*self.size(index), 3), index)

    def is_jpeg(self, index: int) -> bool:
        """Whether a picture is stored as JPEG; else it is raw pixels."""
        return int(self._rows["image"]["mode"][index]) == JPEG

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a picture."""
        row = self._rows["image"][index]
        return int(row["height"]), int(row["width"])

    @naming_extras()
    def decoded(self, jpeg: np.ndarray, height: int, width: int, index: int) -> np.ndarray:
        """uint8 [H, W, 3] from JPEG data, of a whole sample or a part. DataError where they are broken."""
        from PIL import Image

        try:
            with Image.open(io.BytesIO(jpeg.data)) as picture:
                return self._shaped(np.asarray(picture.convert("RGB")), (height, width, 3), index)
        except (OSError, SyntaxError) as error:
            raise DataError(f"{self.path}: the JPEG data of sample {index} is broken ({error})") from error

    def _shaped(self, pixels: np.ndarray, shape: tuple[int, ...], index: int) -> np.ndarray:
        if pixels.size != math.prod(shape):
            raise DataError(f"{self.path}: sample {index} has {pixels.size:,} values, expected {shape}")
        return np.array(pixels).reshape(shape)

    def _read(self, start: int, dtype: np.dtype, count: int) -> np.ndarray:
        stop = start + count * dtype.itemsize
        if stop > self._length:
            raise ValueError(f"it ends at byte {self._length:,}, before {stop:,}")
        self._file.seek(start)
        return np.fromfile(self._file, dtype, count)


class SampleIndexError(DataError, IndexError):
    """A sample that does not exist; also an IndexError, so that a loop over samples ends as over a list."""


def check_index(index: int, count: int, where: str) -> None:
    """SampleIndexError unless 0 <= index < count; negative indices do not count from the end."""
    if not 0 <= index < count:
        raise SampleIndexError(f"{where} has no sample {index}: it holds {count:,}, 0 to {count - 1:,}")


def addresses_of(rows: np.ndarray) -> np.ndarray:
    """The addresses in rows of the table: a view, which may be written to."""
    image = rows["image"]
    return image if image.dtype.names is None else image["address"]


def _array_arguments(shape: tuple[int, int, int]) -> np.ndarray:
    kind = json.dumps(np.dtype(np.uint8).descr).encode("ascii")
    arguments = np.zeros(1, dtype=_ARRAY_ARGUMENTS)
    arguments[0]["shape"][: len(shape)] = shape
    arguments[0]["length"] = len(kind)
    return np.concatenate([arguments.view("u1"), np.frombuffer(kind, dtype="u1")])


def _array_shape(arguments: np.ndarray) -> tuple[int, ...]:
    (record,) = arguments[: _ARRAY_ARGUMENTS.itemsize].view(_ARRAY_ARGUMENTS)
    return tuple(int(side) for side in record["shape"] if side)
