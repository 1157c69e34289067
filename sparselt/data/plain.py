"""Reads betons without FFCV: Pillow decodes, in plain threads, and every batch has memory of its own.

Order, crops and flips are those of FFCV's reader. Pixels that are stored raw are equal to the bit; those under JPEG
differ a little, because FFCV asks its decompressor for a faster, less exact inverse transform.
"""

import os
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from sparselt.data.beton import Beton
from sparselt.data.crops import crop_numbers, crop_region
from sparselt.data.jpeg import cut_region
from sparselt.data.resize import resize_region
from sparselt.data.transforms import CenterCrop, RandomResizedCrop

_AHEAD = 2  # batches that are read before they are asked for


class PlainReader:
    """Batches of one split.

    transform: of pictures; None where the beton holds arrays of one size.
    pinned: in memory that a GPU can copy from while other work goes on.
    """

    reuses_memory = False

    def __init__(
        self, path: Path, transform: RandomResizedCrop | CenterCrop | None, batch_size: int, threads: int, pinned: bool
    ):
        self.beton = Beton(path)
        self.transform, self.batch_size, self.pinned = transform, batch_size, pinned
        self.threads = min(threads, len(os.sched_getaffinity(0)))
        self.shape = self.beton.shape if transform is None else (transform.size, transform.size, 3)

    def images(self, order: np.ndarray, seed: int = 0, epoch: int = 0) -> Generator[torch.Tensor]:
        """uint8 [N, C, H, W] of consecutive batches of `order`; an error in a thread is raised here.

        Closing the generator, or dropping it, ends the threads.
        """
        crop = None if self.transform is None else crop_numbers(self.transform, seed, epoch)
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="sparselt-reader")
        try:
            read = deque(self._begin(pool, batch, crop) for batch in batches[:_AHEAD])
            for number in range(len(batches)):
                if number + _AHEAD < len(batches):
                    read.append(self._begin(pool, batches[number + _AHEAD], crop))
                images, parts = read.popleft()
                for part in parts:
                    part.result()
                yield images if self.transform is None else images.permute(0, 3, 1, 2)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, pool: ThreadPoolExecutor, indices: np.ndarray, crop: tuple[np.ndarray, np.ndarray] | None):
        images = torch.empty((len(indices), *self.shape), dtype=torch.uint8, pin_memory=self.pinned)
        edges = [len(indices) * part // self.threads for part in range(self.threads + 1)]
        parts: list[Future] = [
            pool.submit(self._read, images[start:stop].numpy(), indices[start:stop], crop)
            for start, stop in pairwise(edges)
            if start < stop
        ]
        return images, parts

    def _read(self, images: np.ndarray, indices: np.ndarray, crop: tuple[np.ndarray, np.ndarray] | None) -> None:
        for target, index in zip(images, indices.tolist(), strict=True):
            if crop is None:
                target[:] = self.beton.image(index)
            else:
                self._read_picture(target, index, crop)

    def _read_picture(self, target: np.ndarray, index: int, crop: tuple[np.ndarray, np.ndarray]) -> None:
        beton, (height, width), side = self.beton, self.beton.size(index), len(target)
        top, left, rows, columns, bilinear, flip = crop_region(height, width, index, side, *crop)
        if beton.is_jpeg(index):
            jpeg = beton.stored(index)
            cut = np.empty(len(jpeg), np.uint8)
            size, row, column, cut_height, cut_width = cut_region(
                jpeg, height, width, top, left, rows, columns, bilinear, side, cut
            )
            if size:
                jpeg, height, width = cut[:size], cut_height, cut_width
            image = beton.decoded(jpeg, height, width, index)
            top, left = top - row, left - column
        else:
            image = beton.image(index)
        resize_region(image.reshape(-1), *image.shape[:2], top, left, rows, columns, bilinear, flip, target)
