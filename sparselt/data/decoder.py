"""Reads betons of pictures through FFCV, which decodes, crops, resizes and flips them in compiled code.

Of a JPEG that can be cut (see `jpeg`) it decompresses only the part that the crop shows.
"""

import contextlib
import functools
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sparselt.data.beton import JPEG, Beton
from sparselt.data.crops import crop_numbers, crop_region
from sparselt.data.ffcv_bridge import iterate, make_loader, require_ffcv, usable_threads
from sparselt.data.jpeg import cut_region
from sparselt.data.resize import resize_region
from sparselt.data.transforms import CenterCrop, RandomResizedCrop
from sparselt.errors import DataError

_DECODED, _NOT_DECODED, _OUTSIDE = 0, 1, 2


class FfcvReader:
    """Batches of one split, decoded by FFCV in a thread of its own and `threads` of Numba's.

    The memory of a batch is overwritten when the next batch is asked for.
    """

    reuses_memory = True

    def __init__(self, path: Path, transform: RandomResizedCrop | CenterCrop, batch_size: int, threads: int):
        require_ffcv()
        self.beton = Beton(path)
        self.transform, self.batch_size, self.threads = transform, batch_size, usable_threads(threads)

    def images(self, order: np.ndarray, seed: int = 0, epoch: int = 0) -> Generator[torch.Tensor]:
        """uint8 [N, C, H, W] of consecutive batches of `order`; closing the generator ends the thread."""
        path = self.beton.path
        loader = _loader(path, path.stat().st_mtime_ns, self.batch_size, self.threads, self.transform.size)
        crop = crop_numbers(self.transform, seed, epoch)

        def fill(buffers) -> None:
            _, whole, real, _ = buffers
            whole[:], real[:] = crop

        with contextlib.closing(iterate(loader, order, fill)) as images_of:
            for images in images_of:
                yield torch.from_numpy(images).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=8)
def _loader(path: Path, written: int, batch_size: int, threads: int, size: int):
    """FFCV's loader, shared by all that read a beton alike: each takes a second of compilation, and large tables."""
    return make_loader(path, batch_size, threads, _decoder_class()(size))


@functools.cache
def _decoder_class():
    require_ffcv()
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler

    class SeededDecoder(SimpleRGBImageDecoder):
        """A decoder for FFCV's pipeline."""

        def __init__(self, size: int):
            super().__init__()
            self.size = size

        def declare_state_and_memory(self, previous_state):
            shape = (self.size, self.size, 3)
            state = replace(previous_state, jit_mode=True, shape=shape, dtype=np.dtype("<u1"))
            return state, (
                AllocationQuery(shape, np.dtype("<u1")),
                AllocationQuery((6,), np.dtype("<i8")),
                AllocationQuery((5,), np.dtype("<f8")),
                AllocationQuery((1,), np.dtype("<i8")),  # what became of the sample
            )

        def generate_code(self):
            compiled = _compiled_decoder(Compiler.num_threads > 1)

            def decode(indices, memory, metadata, storage):
                images, whole, real, status = memory
                contents, addresses, sizes = storage
                compiled(indices, images, whole, real, status, metadata, contents, addresses, sizes)
                return images

            return decode

        def check(self, buffers, slot: int, indices: np.ndarray) -> None:
            """Raises a DataError if a sample of the batch in `slot` was not decoded."""
            status = buffers[3][slot][: len(indices), 0]
            if status.any():
                first = int(np.flatnonzero(status)[0])
                reason = "its JPEG data is broken" if status[first] == _NOT_DECODED else "it points outside the file"
                raise DataError(
                    f"sample {int(indices[first])} of the beton cannot be decoded: {reason}; write the data set again"
                )

    return SeededDecoder


@functools.cache
def _compiled_decoder(parallel: bool):
    """Compiled once a process for all loaders. FFCV's slots are reused, so every sample writes its status."""
    import numba
    from ffcv.libffcv import ctypes_imdecode

    each = numba.prange if parallel else range

    @numba.njit(nogil=True)
    def decompress(jpeg, size, height, width, pixels):
        # The arguments are arrays, not addresses, because Numba frees an array after its last use as an array.
        return ctypes_imdecode(
            jpeg.ctypes.data, size, height, width, pixels.ctypes.data, height, width, 0, 0, 1, 1, False, False
        )

    @numba.njit(nogil=True)
    def decode_region(jpeg, height, width, top, left, rows, columns, bilinear, flip, target):
        cut = np.empty(len(jpeg), dtype=np.uint8)
        size, row, column, cut_height, cut_width = cut_region(
            jpeg, height, width, top, left, rows, columns, bilinear, len(target), cut
        )
        if size > 0:
            height, width = cut_height, cut_width
        pixels = np.empty(3 * height * width, dtype=np.uint8)
        if size > 0:
            failed = decompress(cut, size, height, width, pixels)
        else:
            failed = decompress(jpeg, len(jpeg), height, width, pixels)
        if failed:
            return _NOT_DECODED
        resize_region(pixels, height, width, top - row, left - column, rows, columns, bilinear, flip, target)
        return _DECODED

    @numba.njit(nogil=True, parallel=parallel)
    def decode(indices, images, whole, real, status, metadata, contents, addresses, sizes):
        for place in each(len(indices)):
            index, target = indices[place], images[place]
            record = metadata[index]
            height, width, start = np.int64(record["height"]), np.int64(record["width"]), np.int64(record["data_ptr"])
            size = np.int64(sizes[np.searchsorted(addresses, record["data_ptr"])])
            if start + size > len(contents) or (record["mode"] != JPEG and size < 3 * height * width):
                status[place, 0] = _OUTSIDE
                continue
            top, left, rows, columns, bilinear, flip = crop_region(
                height, width, index, len(target), whole[place], real[place]
            )
            stored = contents[start : start + size]
            if record["mode"] == JPEG:
                status[place, 0] = decode_region(
                    stored, height, width, top, left, rows, columns, bilinear, flip, target
                )
            else:
                resize_region(stored, height, width, top, left, rows, columns, bilinear, flip, target)
                status[place, 0] = _DECODED

    return decode
