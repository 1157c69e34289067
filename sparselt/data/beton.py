"""One beton from one split. FFCV's own writer waits for ever when a process of it fails; this one names the sample."""

import contextlib
import math
import multiprocessing
import queue
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sparselt.errors import DataError

_COMPRESS = 4  # Philox stream: which pictures of a folder become JPEG
_CHUNK = 64
_POLL_SECONDS = 0.5
_SMALL_IMAGE = 64 * 1024


def write_beton(source, samples, path: Path, workers: int, progress: Callable[[int], None] | None) -> None:
    """Writes every sample (fields "image" and "label", in the order of `samples`) to `path`.

    One worker writes in this process, several in processes of their own. DataError naming the sample that failed.
    """
    from ffcv.memory_allocator import MemoryAllocator
    from ffcv.writer import MIN_PAGE_SIZE, DatasetWriter

    encoders = _encoders(source)
    page_size = MIN_PAGE_SIZE if _is_small(source.image_shape) else 4 * MIN_PAGE_SIZE
    writer = DatasetWriter(str(path), next(iter(encoders.values())), page_size=page_size, num_workers=workers)
    writer.num_samples = len(samples)
    try:
        writer.prepare()
        allocator = MemoryAllocator(str(path), writer.data_region_start, page_size)
        encode = _Encode(samples, encoders, _compressed(source, len(samples)), writer.metadata_type, allocator)
        if workers == 1:
            allocations = encode(writer.metadata_sm, range(len(samples)), progress)
        else:
            allocations = _in_processes(encode, writer.metadata_sm, len(samples), workers, progress)
        _check_pages(path, allocator, page_size)
        writer.finalize([allocations])
    finally:
        shared = getattr(writer, "metadata_sm", None)
        if hasattr(shared, "unlink"):
            shared.close()
            shared.unlink()


class _Encode:
    """Encodes samples into pages of the file and their records into the shared table of metadata."""

    def __init__(self, samples, encoders: dict, compressed: np.ndarray, metadata_type: np.dtype, allocator):
        self.samples, self.encoders, self.compressed = samples, encoders, compressed
        self.metadata_type, self.allocator = metadata_type, allocator

    def __call__(self, shared, indices, progress: Callable[[int], None] | None) -> list[tuple[int, int, int]]:
        """Encodes `indices`; returns FFCV's allocations (sample, address, size)."""
        from ffcv.writer import handle_sample

        metadata, encoded = np.zeros(len(self.samples), dtype=self.metadata_type), []
        self.allocator.__enter__()
        try:
            for done, index in enumerate(indices, 1):
                try:
                    fields = self.encoders[bool(self.compressed[index])]
                    sample = self.samples[index]
                    handle_sample(sample, index, self.metadata_type.names, metadata, self.allocator, fields)
                except (DataError, OSError):
                    raise
                except Exception as error:
                    raise DataError(f"{self.samples.name(index)} cannot be written to a beton: {error}") from error
                encoded.append(index)
                if progress is not None and (done % _CHUNK == 0 or done == len(self.samples)):
                    progress(done)
            self.allocator.flush_page()
        finally:
            # Not the allocator's own exit: after an error it would wait for its turn to write a page that nobody needs.
            self.allocator.fp.close()
        # Shared memory cannot be closed while an array looks into it, so none does for longer than this.
        table = np.frombuffer(shared.buf, dtype=self.metadata_type, count=len(self.samples))
        table[encoded] = metadata[encoded]
        del table
        return self.allocator.allocations


def _check_pages(path: Path, allocator, page_size: int) -> None:
    # FFCV writes its pages unbuffered and does not look at how much was written, so a full disk may cut the last one
    # short.
    expected = allocator.offset + allocator.next_page_allocated.value * page_size
    if path.stat().st_size != expected:
        raise OSError(f"{path.stat().st_size:,} of {expected:,} bytes were written")


def _in_processes(encode: _Encode, shared, count: int, workers: int, progress) -> list[tuple[int, int, int]]:
    # fork, as FFCV does: the allocator's page counters are shared by inheritance.
    context = multiprocessing.get_context("fork")
    chunks, messages = context.Queue(), context.Queue()
    for start in range(0, count, _CHUNK):
        chunks.put(range(start, min(start + _CHUNK, count)))
    for _ in range(workers):
        chunks.put(None)
    processes = [
        context.Process(target=_process, args=(encode, shared, chunks, messages), daemon=True) for _ in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        return _collect(processes, messages, progress)
    finally:
        for process in processes:
            process.terminate()
            process.join()
        for channel in (chunks, messages):
            channel.cancel_join_thread()
            channel.close()


def _collect(processes, messages, progress) -> list[tuple[int, int, int]]:
    allocations, done, ended = [], 0, 0
    while ended < len(processes):
        try:
            kind, value = messages.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            killed = [process.exitcode for process in processes if process.exitcode]
            if killed:
                raise DataError(
                    f"a writing process was killed (exit code {killed[0]}): is the memory or the disk full?"
                ) from None
            continue
        if kind == "error":
            raise DataError(value)
        if kind == "done":
            done += value
            if progress is not None:
                progress(done)
        else:
            allocations += value
            ended += 1
    return allocations


def _process(encode: _Encode, shared, chunks, messages) -> None:
    import cv2

    cv2.setNumThreads(0)  # OpenCV's thread pool does not survive a fork
    try:
        allocations = encode(shared, _indices(chunks, messages), None)
        messages.put(("allocations", allocations))
    except BaseException as error:
        message = (
            str(error) if isinstance(error, DataError) else f"a writing process failed: {type(error).__name__}: {error}"
        )
        messages.put(("error", message))


def _indices(chunks, messages):
    while (chunk := chunks.get()) is not None:
        yield from chunk
        messages.put(("done", len(chunk)))


def _encoders(source) -> dict[bool, dict]:
    """FFCV's fields by whether the picture is compressed; both describe themselves alike in the file's header."""
    from ffcv.fields import IntField, NDArrayField, RGBImageField

    if source.field == "ndarray":
        fields = {"image": NDArrayField(np.dtype("uint8"), source.image_shape), "label": IntField()}
        return {True: fields, False: fields}
    return {
        compressed: {
            "image": RGBImageField(write_mode=mode, max_resolution=source.max_resolution, jpeg_quality=source.quality),
            "label": IntField(),
        }
        for compressed, mode in ((True, "jpg"), (False, "raw"))
    }


def _compressed(source, count: int) -> np.ndarray:
    """Whether each picture becomes JPEG: a function of (seed, index). FFCV's own draw cannot be seeded."""
    from sparselt.kernels.philox import key_of, philox4x32

    if source.field == "ndarray" or source.jpeg_share >= 1:
        return np.ones(count, dtype=bool)
    counters = np.zeros((count, 4), dtype=np.int64)
    counters[:, 0], counters[:, 2] = np.arange(count), _COMPRESS
    return philox4x32(counters, *key_of(source.seed))[:, 0] * 2.0**-32 < source.jpeg_share


def _is_small(shape) -> bool:
    """Small images get FFCV's smallest pages, so that a small data set does not become a file of 16 MiB."""
    with contextlib.suppress(TypeError):
        return math.prod(shape) <= _SMALL_IMAGE
    return False
