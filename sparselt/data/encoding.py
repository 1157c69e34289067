"""Writes one beton from one split, with the same bytes for any number of processes.

Each process encodes every n-th chunk of samples and reports their sizes; the parent gives every sample its address, in
order, and the process writes there. The parent notices a process that fails or dies, and names a sample that cannot be
written.
"""

import collections
import contextlib
import multiprocessing
import os
import signal
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sparselt.data.beton import ROWS, Pages, addresses_of, page_size_for, write_around_pages
from sparselt.data.manifest import contents_of
from sparselt.data.pixels import encoded
from sparselt.data.sources.base import Samples, Source, UnreadableImage
from sparselt.errors import DataError

_COMPRESS = 4  # Philox stream: which pictures of a folder become JPEG
_CHUNK = 32
_AHEAD = 4  # chunks that a process may have encoded and not yet written


@dataclass(frozen=True)
class Written:
    """How many samples a file holds, the names of those left out, and a checksum of all labels and bytes."""

    count: int
    skipped: tuple[str, ...]
    contents: str


@dataclass
class _Chunk:
    """Some encoded samples: rows without addresses, sizes in bytes, CRC32 sums, indices of kept and skipped samples."""

    rows: np.ndarray
    sizes: list[int] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)


def write_beton(
    source: Source,
    samples: Samples,
    path: Path,
    *,
    workers: int,
    skip_unreadable: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Written:
    """Writes `samples` in their order to `path`; calls `progress` with the number of samples done.

    Raises:
        DataError: a sample, which is named, cannot be read or written.
        OSError: the file cannot be written.
    """
    pages = Pages(source.field, len(samples), page_size_for(source.image_shape))
    rows = np.zeros(len(samples), dtype=ROWS[source.field])
    sizes, sums = np.zeros(len(samples), dtype=np.int64), np.zeros(len(samples), dtype=np.uint32)
    skipped: list[int] = []
    count = 0
    with open(path, "wb") as file:
        encode = _Encode(source, samples, skip_unreadable)
        chunks = [range(start, min(start + _CHUNK, len(samples))) for start in range(0, len(samples), _CHUNK)]

        def place(chunk: _Chunk) -> list[int]:
            nonlocal count
            addresses = []
            for index, size in zip(chunk.kept, chunk.sizes, strict=True):
                try:
                    addresses.append(pages.place(size))
                except ValueError as error:
                    raise DataError(
                        f"{samples.name(index)} cannot be written to a beton: {error}; store it smaller "
                        f"(max_resolution) or as JPEG"
                    ) from error
            stop = count + len(addresses)
            rows[count:stop], sizes[count:stop], sums[count:stop] = chunk.rows, chunk.sizes, chunk.sums
            addresses_of(rows)[count:stop] = addresses
            count = stop
            skipped.extend(chunk.skipped)
            if progress is not None:
                progress(count + len(skipped))
            return addresses

        if workers == 1 or len(chunks) == 1:
            for chunk in chunks:
                encoded, contents = encode(chunk)
                _write(file.fileno(), place(encoded), contents)
        else:
            _in_processes(encode, file.fileno(), chunks, min(workers, len(chunks)), place)
        write_around_pages(file, source.field, source.image_shape, pages, rows[:count], sizes[:count])
    return Written(
        count=count,
        skipped=tuple(samples.name(index) for index in skipped),
        contents=contents_of(rows["label"][:count], sums[:count]),
    )


class _Encode:
    """Turns some samples into their rows of the table and the bytes to store."""

    def __init__(self, source: Source, samples: Samples, skip_unreadable: bool):
        self.source, self.samples, self.skip_unreadable = source, samples, skip_unreadable
        self.compressed = _compressed(source, len(samples))

    def __call__(self, indices: range) -> tuple[_Chunk, list[bytes]]:
        rows = np.zeros(len(indices), dtype=ROWS[self.source.field])
        chunk = _Chunk(rows)
        contents: list[bytes] = []
        for index in indices:
            row = rows[len(contents)]
            try:
                image, label = self.samples[index]
                if not 0 <= label < self.source.classes:
                    raise ValueError(f"its label {label} is not one of {self.source.classes} classes")
                row["label"] = label
                stored = encoded(self.source, image, row, bool(self.compressed[index]))
            except UnreadableImage:
                if not self.skip_unreadable:
                    raise
                chunk.skipped.append(index)
                continue
            except (DataError, OSError, MemoryError):
                raise
            except Exception as error:
                raise DataError(f"{self.samples.name(index)} cannot be written to a beton: {error}") from error
            contents.append(stored)
            chunk.kept.append(index)
            chunk.sizes.append(len(stored))
            chunk.sums.append(zlib.crc32(stored))
        chunk.rows = rows[: len(contents)]
        return chunk, contents


def _write(descriptor: int, addresses: list[int], contents: list[bytes]) -> None:
    """Writes each sample at its address, neighbours in one go. OSError where not all of it could be written."""
    start = 0
    for stop in range(1, len(contents) + 1):
        if stop < len(contents) and addresses[stop] == addresses[stop - 1] + len(contents[stop - 1]):
            continue
        data, position = memoryview(b"".join(contents[start:stop])), addresses[start]
        while data:
            written = os.pwrite(descriptor, data, position)
            data, position = data[written:], position + written
        start = stop


def _in_processes(encode: _Encode, descriptor: int, chunks: list[range], workers: int, place) -> None:
    # fork: a process inherits the open file, and the samples (over a million paths) need not be sent.
    context = multiprocessing.get_context("fork")
    processes, channels = [], []
    try:
        for turn in range(workers):
            ours, theirs = context.Pipe()
            channels.append(ours)
            arguments = (encode, descriptor, chunks[turn::workers], theirs, tuple(channels))
            processes.append(context.Process(target=_process, args=arguments, daemon=True))
            processes[-1].start()
            theirs.close()
        for number in range(len(chunks)):
            turn = number % workers
            addresses = place(_receive(processes[turn], channels[turn]))
            with contextlib.suppress(OSError):  # the next `_receive` notices a process that is gone
                channels[turn].send(addresses)
        for process, channel in zip(processes, channels, strict=True):
            _receive(process, channel)
    finally:
        for process in processes:
            process.terminate()
            process.join()
        for channel in channels:
            channel.close()


def _receive(process, channel):
    try:
        kind, value = channel.recv()
    except (EOFError, OSError):
        process.join()
        raise DataError(
            f"a writing process was killed (exit code {process.exitcode}): is the memory or the disk full?"
        ) from None
    if kind == "error":
        raise value
    return value


def _process(encode: _Encode, descriptor: int, chunks: list[range], channel, of_parent) -> None:
    """Encodes its chunks, reports each, and writes each where the parent says."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process, by SIGTERM
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # An inherited end of its own channel would keep it open after the parent's death.
    for inherited in of_parent:
        inherited.close()
    with contextlib.suppress(ImportError):
        import cv2

        cv2.setNumThreads(0)  # OpenCV's thread pool does not survive a fork
    try:
        waiting: collections.deque[list[bytes]] = collections.deque()
        for chunk in chunks:
            encoded_chunk, contents = encode(chunk)
            channel.send(("chunk", encoded_chunk))
            waiting.append(contents)
            while len(waiting) > _AHEAD or (waiting and channel.poll()):
                _write(descriptor, channel.recv(), waiting.popleft())
        while waiting:
            _write(descriptor, channel.recv(), waiting.popleft())
        channel.send(("written", None))
    except EOFError:
        os._exit(1)  # the parent is gone
    except BaseException as error:
        known = isinstance(error, DataError | OSError)
        failure = error if known else DataError(f"a writing process failed: {type(error).__name__}: {error}")
        with contextlib.suppress(OSError):
            channel.send(("error", failure))


def _compressed(source, count: int) -> np.ndarray:
    """Whether each picture becomes JPEG, bool [count]: a function of (seed, index). FFCV's own draw takes no seed."""
    from sparselt.kernels.philox import key_of, philox4x32

    if source.field == "ndarray" or source.jpeg_share >= 1:
        return np.ones(count, dtype=bool)
    counters = np.zeros((count, 4), dtype=np.int64)
    counters[:, 0], counters[:, 2] = np.arange(count), _COMPRESS
    return philox4x32(counters, *key_of(source.seed))[:, 0] * 2.0**-32 < source.jpeg_share
