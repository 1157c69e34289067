"""Pictures to squares of uint8, inside FFCV: decode, crop, resize, flip; compiled, and keyed by the sample's index."""

import functools
from dataclasses import replace

import numpy as np

from sparselt.data.ffcv_bridge import require_ffcv
from sparselt.data.transforms import CenterCrop, RandomResizedCrop
from sparselt.errors import DataError

# Columns of the two tables that FFCV hands to the compiled code, one row a sample. They are data and not constants of
# the compiled code, so that one compilation serves every epoch, seed and crop; STATUS is written back.
RANDOM, FLIPPED, EPOCH, KEY0, KEY1, STATUS = range(6)
AREA_LOW, AREA_HIGH, ASPECT_LOW, ASPECT_HIGH, CENTER_RATIO = range(5)
_DECODED, _NOT_DECODED, _OUTSIDE = 0, 1, 2
_JPEG = 0  # FFCV's mode of a picture that is compressed (ffcv/fields/rgb_image.py); 1 is raw


def make_decoder(transform: RandomResizedCrop | CenterCrop):
    """An FFCV decoder of RGB images for this transform, giving uint8 [N, size, size, 3]."""
    return _decoder_class()(transform.size)


def key_filler(transform: RandomResizedCrop | CenterCrop, seed: int = 0, epoch: int = 0):
    """For `ffcv_bridge.iterate`: writes the transform, the seed and the epoch into the decoder's tables."""
    from sparselt.kernels.philox import key_of

    def fill(buffers) -> None:
        _, whole, real = buffers
        whole[:] = 0
        if isinstance(transform, CenterCrop):
            real[..., CENTER_RATIO] = transform.ratio
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
                AllocationQuery((6,), np.dtype("<i8")),
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
    from ffcv.libffcv import ctypes_imdecode, ctypes_resize

    from sparselt.data.crops import center_box, coin, random_resized_box

    each = numba.prange if parallel else range

    @numba.njit(nogil=True)
    def resize(pixels, start, height, width, row, column, box_height, box_width, target):
        # pixels is an argument and not an address, because Numba frees an array after its last use as an array.
        ctypes_resize(
            0, pixels.ctypes.data + start, height, width, row, row + box_height, column, column + box_width,
            target.ctypes.data, target.shape[0], target.shape[1],
        )  # fmt: skip

    @numba.njit(nogil=True, parallel=parallel)
    def decode(indices, images, whole, real, metadata, contents, addresses, sizes):
        for place in each(len(indices)):
            index, keys, ranges, target = indices[place], whole[place], real[place], images[place]
            record = metadata[index]
            height, width, start = np.int64(record["height"]), np.int64(record["width"]), np.int64(record["data_ptr"])
            size = np.int64(sizes[np.searchsorted(addresses, record["data_ptr"])])
            keys[STATUS] = _DECODED
            if start + size > len(contents):
                keys[STATUS] = _OUTSIDE
                continue
            if keys[RANDOM]:
                row, column, box_height, box_width = random_resized_box(
                    height, width, index, keys[EPOCH], keys[KEY0], keys[KEY1],
                    ranges[AREA_LOW], ranges[AREA_HIGH], ranges[ASPECT_LOW], ranges[ASPECT_HIGH],
                )  # fmt: skip
            else:
                row, column, box_height, box_width = center_box(height, width, ranges[CENTER_RATIO])
            if record["mode"] == _JPEG:
                pixels = np.empty(3 * height * width, dtype=np.uint8)
                if ctypes_imdecode(
                    contents.ctypes.data + start, size, height, width, pixels.ctypes.data, height, width,
                    0, 0, 1, 1, False, False,
                ) != 0:  # fmt: skip
                    keys[STATUS] = _NOT_DECODED
                    continue
                resize(pixels, 0, height, width, row, column, box_height, box_width, target)
            else:
                resize(contents, start, height, width, row, column, box_height, box_width, target)
            if keys[FLIPPED] and coin(index, keys[EPOCH], keys[KEY0], keys[KEY1]):
                side = target.shape[0]
                for line in range(side):
                    for left in range(side // 2):
                        right = side - 1 - left
                        for channel in range(3):
                            swapped = target[line, left, channel]
                            target[line, left, channel] = target[line, right, channel]
                            target[line, right, channel] = swapped

    return decode
