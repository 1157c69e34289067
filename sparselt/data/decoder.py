"""Pictures to squares of uint8, inside FFCV: decode, crop, resize, flip; compiled, and keyed by the sample's index.

FFCV decompresses; of a JPEG that can be cut (see `jpeg`) only what the crop shows.
"""

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sparselt.data.beton import Beton
from sparselt.data.ffcv_bridge import iterate, make_loader, require_ffcv, usable_threads
from sparselt.data.transforms import CenterCrop, RandomResizedCrop
from sparselt.errors import DataError

# Columns of the two tables that FFCV hands to the compiled code, one row a sample. They are data and not constants of
# the compiled code, so that one compilation serves every epoch, seed and crop; STATUS is written back.
RANDOM, FLIPPED, BILINEAR, EPOCH, KEY0, KEY1, STATUS = range(7)
AREA_LOW, AREA_HIGH, ASPECT_LOW, ASPECT_HIGH, CENTER_RATIO = range(5)
_DECODED, _NOT_DECODED, _OUTSIDE = 0, 1, 2
_JPEG = 0  # FFCV's mode of a picture that is compressed (ffcv/fields/rgb_image.py); 1 is raw


class FfcvReader:
    """Batches of one split, decoded by FFCV in a thread of its own and `threads` of Numba's.

    What it yields is memory that is written again when the next batch is asked for.
    """

    reuses_memory = True

    def __init__(self, path: Path, transform: RandomResizedCrop | CenterCrop, batch_size: int, threads: int):
        require_ffcv()
        self.beton = Beton(path)
        self.transform, self.batch_size, self.threads = transform, batch_size, usable_threads(threads)

    def images(self, order: np.ndarray, seed: int = 0, epoch: int = 0) -> Iterator[torch.Tensor]:
        """uint8 [N, C, H, W] of consecutive batches of `order`; closing the generator ends the thread."""
        path = self.beton.path
        loader = _loader(path, path.stat().st_mtime_ns, self.batch_size, self.threads, self.transform.size)
        images_of = iterate(loader, order, _key_filler(self.transform, seed, epoch))
        try:
            for images in images_of:
                yield torch.from_numpy(images).permute(0, 3, 1, 2)
        finally:
            images_of.close()


@functools.lru_cache(maxsize=8)
def _loader(path: Path, written: int, batch_size: int, threads: int, size: int):
    """FFCV's loader, one for all that read a beton alike: each costs a second of compilation, and tables as long as the
    beton."""
    return make_loader(path, batch_size, threads, _decoder_class()(size))


def _key_filler(transform: RandomResizedCrop | CenterCrop, seed: int, epoch: int):
    """For `ffcv_bridge.iterate`: writes the transform, the seed and the epoch into the decoder's tables."""
    from sparselt.kernels.philox import key_of

    def fill(buffers) -> None:
        _, whole, real = buffers
        whole[:] = 0
        if isinstance(transform, CenterCrop):
            real[..., CENTER_RATIO] = transform.ratio
            whole[..., BILINEAR] = int(transform.interpolation == "bilinear")
            return
        whole[..., RANDOM], whole[..., FLIPPED], whole[..., EPOCH] = 1, int(transform.flip), epoch
        whole[..., KEY0], whole[..., KEY1] = key_of(seed)
        real[..., AREA_LOW], real[..., AREA_HIGH] = transform.area
        real[..., ASPECT_LOW], real[..., ASPECT_HIGH] = transform.aspect

    return fill


@functools.cache
def _decoder_class():
    require_ffcv()
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler

    class SeededDecoder(SimpleRGBImageDecoder):
        """Stands where FFCV's own decoders stand in a pipeline."""

        def __init__(self, size: int):
            super().__init__()
            self.size = size

        def declare_state_and_memory(self, previous_state):
            shape = (self.size, self.size, 3)
            state = replace(previous_state, jit_mode=True, shape=shape, dtype=np.dtype("<u1"))
            return state, (
                AllocationQuery(shape, np.dtype("<u1")),
                AllocationQuery((7,), np.dtype("<i8")),
                AllocationQuery((5,), np.dtype("<f8")),
            )

        def generate_code(self):
            compiled = _compiled_decoder(Compiler.num_threads > 1)

            def decode(indices, memory, metadata, storage):
                images, whole, real = memory
                contents, addresses, sizes = storage
                compiled(indices, images, whole, real, metadata, contents, addresses, sizes)
                return images

            return decode

        def check(self, buffers, slot: int, indices: np.ndarray) -> None:
            """DataError where a sample of the batch in `slot` was not decoded."""
            status = buffers[1][slot][: len(indices), STATUS]
            if status.any():
                first = int(np.flatnonzero(status)[0])
                reason = "its JPEG data is broken" if status[first] == _NOT_DECODED else "it points outside the file"
                raise DataError(
                    f"sample {int(indices[first])} of the beton cannot be decoded: {reason}; write the data set again"
                )

    return SeededDecoder


@functools.cache
def _compiled_decoder(parallel: bool):
    """Compiled once a process for all loaders. FFCV's slots are reused, so every sample writes its STATUS."""
    import numba
    from ffcv.libffcv import ctypes_imdecode

    from sparselt.data.crops import center_box, center_region, coin, random_resized_box
    from sparselt.data.jpeg import box_around, cut_box
    from sparselt.data.resize import resize_region

    each = numba.prange if parallel else range

    @numba.njit(nogil=True)
    def decompress(jpeg, size, height, width, pixels):
        # Arrays and not addresses are the arguments, because Numba frees an array after its last use as an array.
        return ctypes_imdecode(
            jpeg.ctypes.data, size, height, width, pixels.ctypes.data, height, width, 0, 0, 1, 1, False, False
        )

    @numba.njit(nogil=True)
    def decode_region(jpeg, height, width, region, bilinear, flip, target):
        top, left, rows, columns = region
        reach = max(1.0, rows / len(target), columns / len(target)) + 1.0 if bilinear else 0.0
        row, column, box_height, box_width = box_around(top, left, rows, columns, height, width, reach)
        cut = np.empty(len(jpeg), dtype=np.uint8)
        size, row, column, cut_height, cut_width = cut_box(jpeg, row, column, box_height, box_width, cut)
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
    def decode(indices, images, whole, real, metadata, contents, addresses, sizes):
        for place in each(len(indices)):
            index, keys, ranges, target = indices[place], whole[place], real[place], images[place]
            record = metadata[index]
            height, width, start = np.int64(record["height"]), np.int64(record["width"]), np.int64(record["data_ptr"])
            size = np.int64(sizes[np.searchsorted(addresses, record["data_ptr"])])
            if start + size > len(contents) or (record["mode"] != _JPEG and size < 3 * height * width):
                keys[STATUS] = _OUTSIDE
                continue
            bilinear = keys[BILINEAR] != 0
            if keys[RANDOM]:
                row, column, rows, columns = random_resized_box(
                    height, width, index, keys[EPOCH], keys[KEY0], keys[KEY1],
                    ranges[AREA_LOW], ranges[AREA_HIGH], ranges[ASPECT_LOW], ranges[ASPECT_HIGH],
                )  # fmt: skip
                region = (float(row), float(column), float(rows), float(columns))
            elif bilinear:
                region = center_region(height, width, len(target), ranges[CENTER_RATIO])
            else:
                row, column, rows, columns = center_box(height, width, ranges[CENTER_RATIO])
                region = (float(row), float(column), float(rows), float(columns))
            flip = keys[FLIPPED] != 0 and coin(index, keys[EPOCH], keys[KEY0], keys[KEY1])
            stored = contents[start : start + size]
            if record["mode"] == _JPEG:
                keys[STATUS] = decode_region(stored, height, width, region, bilinear, flip, target)
            else:
                top, left, high, wide = region
                resize_region(stored, height, width, top, left, high, wide, bilinear, flip, target)
                keys[STATUS] = _DECODED

    return decode
