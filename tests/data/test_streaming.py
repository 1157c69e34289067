import os
import resource
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numba
import numpy as np
import pytest
import torch

from sparselt.data import (
    CenterCrop,
    ImageFolder,
    RandomResizedCrop,
    StreamingEvalLoader,
    StreamingTrainLoader,
    SyntheticImages,
    ffcv_bridge,
    open_dataset,
    sample_order,
    write_dataset,
)
from sparselt.data.crops import coin, random_resized_box
from sparselt.data.manifest import fingerprint
from sparselt.errors import DataError

CROP = RandomResizedCrop(40)
_kept = []  # Numba 0.68 prints a KeyError when it collects the compiled code of FFCV's stock decoder


def train_loader(dataset, **changes):
    options = {"batch_size": 10, "order_seed": 1, "augmentation_seed": 2, "transform": CROP, "threads": 2}
    return StreamingTrainLoader(dataset, **{**options, **changes})


def by_index(batches):
    pairs = (pair for batch in batches for pair in zip(batch.indices, batch.images, strict=True))
    return {int(index): image.numpy() for index, image in pairs}


def assert_equal_batches(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def decoding_threads():
    return [thread for thread in threading.enumerate() if type(thread).__name__ == "Worker"]


@pytest.fixture(scope="module")
def epoch_two(textures):
    """Six whole batches, kept while the loader went on: what is kept must not be overwritten."""
    return list(train_loader(textures).epoch(2))


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """Pictures stored as raw pixels, so that crops can be compared exactly: (dataset, the pictures)."""
    folder, random = tmp_path_factory.mktemp("exact"), np.random.default_rng(1)
    pictures = []
    for split in ("train", "val"):
        for name in ("a", "b"):
            (folder / "in" / split / name).mkdir(parents=True)
            for index in range(5):
                small = random.integers(0, 256, (9, 7, 3), dtype=np.uint8)
                picture = cv2.resize(small, (60 + 7 * index, 90 - 5 * index), interpolation=cv2.INTER_LINEAR)
                cv2.imwrite(str(folder / "in" / split / name / f"{index}.png"), picture[:, :, ::-1])
                if split == "train":
                    pictures.append(picture)
    write_dataset(ImageFolder(str(folder / "in"), jpeg_share=0.0), folder / "out")
    return open_dataset(folder / "out"), pictures


def pixels_of(image):
    """The uint8 [H, W, C] behind a normalised image."""
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (CROP.mean, CROP.std))
    return np.rint((image * std + mean) * CROP.scale).astype(int).transpose(1, 2, 0)


def test_training_batches_have_shape_order_and_labels(textures, epoch_two):
    assert train_loader(textures).steps_per_epoch == len(epoch_two) == 6
    indices = torch.cat([batch.indices for batch in epoch_two])
    assert indices.tolist() == sample_order(1, 2, 64)[:60].tolist()
    assert torch.equal(torch.cat([batch.labels for batch in epoch_two]), indices % 4)
    for batch in epoch_two:
        assert batch.images.shape == (10, 3, 40, 40) and batch.images.dtype == torch.float32
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_one_thread_and_two_threads_give_the_same_bytes(textures, epoch_two):
    assert_equal_batches(list(train_loader(textures, threads=1).epoch(2)), epoch_two)


def test_more_threads_than_numba_has_are_clamped(textures, epoch_two):
    assert_equal_batches(list(train_loader(textures, threads=1000).epoch(2)), epoch_two)


def test_starting_inside_an_epoch_gives_the_rest_of_it(textures, epoch_two):
    assert_equal_batches(list(train_loader(textures).epoch(2, start_step=4)), epoch_two[4:])
    assert list(train_loader(textures).epoch(2, start_step=6)) == []


def test_each_sample_is_cropped_alike_in_any_batch(textures, epoch_two):
    first, other = by_index(epoch_two), by_index(train_loader(textures, batch_size=7, order_seed=8).epoch(2))
    shared = first.keys() & other.keys()
    assert len(shared) > 50 and all(np.array_equal(first[index], other[index]) for index in shared)


def test_crops_change_with_epoch_and_augmentation_seed(textures, epoch_two):
    first = by_index(epoch_two)
    for other in (
        by_index(train_loader(textures).epoch(3)),
        by_index(train_loader(textures, augmentation_seed=3).epoch(2)),
    ):
        shared = first.keys() & other.keys()
        assert len(shared) > 50 and not any(np.array_equal(first[index], other[index]) for index in shared)


def test_crops_are_the_seeded_boxes_resized_and_flipped(exact):
    dataset, pictures = exact
    found = by_index(train_loader(dataset, batch_size=5, augmentation_seed=9).epoch(4))
    assert len(found) == 10
    flips = 0
    for index, image in found.items():
        picture = pictures[index]
        row, column, height, width = random_resized_box(*picture.shape[:2], index, 4, 9, 0, *CROP.area, *CROP.aspect)
        box = picture[row : row + height, column : column + width]
        expected = area_average(box, 40)
        if coin(index, 4, 9, 0):
            expected, flips = expected[:, ::-1], flips + 1
        assert abs(pixels_of(image) - expected).max() <= 0.501
    assert 0 < flips < 10


def area_average(pixels, side):
    """[side, side, C] in float64: what part of each pixel each result covers, as a matrix for either axis."""

    def covered(length):
        edges = np.arange(side + 1) * length / side
        low, high = edges[:-1, None], edges[1:, None]
        places = np.arange(length)
        return np.clip(np.minimum(high, places + 1) - np.maximum(low, places), 0, None) * side / length

    return np.einsum("yi,xj,ijc->yxc", covered(pixels.shape[0]), covered(pixels.shape[1]), pixels.astype(float))


def test_no_flip_where_none_is_asked(exact):
    dataset, _ = exact
    plain = by_index(train_loader(dataset, batch_size=5, transform=replace(CROP, flip=False)).epoch(0))
    flipped = by_index(train_loader(dataset, batch_size=5).epoch(0))
    for index, image in flipped.items():
        expected = plain[index][:, :, ::-1] if coin(index, 0, 2, 0) else plain[index]
        assert np.array_equal(image, expected)


def test_evaluation_counts_every_sample_once_in_order_as_ffcv_crops_it(textures):
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder

    loader = StreamingEvalLoader(textures, CenterCrop(48, interpolation="area"), batch_size=16, threads=2)
    batches = list(loader)
    assert [len(batch.labels) for batch in batches] == [16, 14] and len(loader) == 2
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(30))
    assert torch.cat([batch.labels for batch in batches]).tolist() == [index % 4 for index in range(30)]
    stock = ffcv_bridge.make_loader(textures.path("test"), 30, 1, CenterCropRGBImageDecoder((48, 48), 224 / 256))
    _kept.append(stock)
    (expected,) = (images.astype(int) for images in ffcv_bridge.iterate(stock, np.arange(30)))
    found = np.stack([pixels_of(image.numpy()) for batch in batches for image in batch.images])
    assert abs(found - expected).max() <= 1  # FFCV's own resizing rounds each direction by itself
    assert_equal_batches(list(loader), batches)


def test_training_and_evaluation_refuse_each_others_transform(textures):
    with pytest.raises(DataError, match="give a CenterCrop"):
        StreamingEvalLoader(textures, CROP, batch_size=8)
    with pytest.raises(DataError, match="give a RandomResizedCrop"):
        train_loader(textures, transform=CenterCrop(40))


def test_no_threads_are_refused(textures):
    with pytest.raises(DataError, match="at least 1"):
        train_loader(textures, threads=0)


@pytest.mark.parametrize("reader", ["ffcv", "pillow"])
def test_leaving_early_a_hundred_times_leaks_neither_threads_nor_memory(textures, reader):
    loader = train_loader(textures, reader=reader, transform=RandomResizedCrop(160))
    whole = list(loader.epoch(2))
    threads, memory = set(), []
    for epoch in range(100):
        batches = loader.epoch(epoch)
        next(batches)
        batches.close()
        threads.add(threading.active_count())
        memory.append(resident_bytes())
    assert len(threads) == 1 and decoding_threads() == []
    # A batch has 0.8 MB as bytes and 3 MB as numbers, and four are read ahead: a leak would show as hundreds of MB.
    assert memory[-1] - memory[20] < 30e6
    assert_equal_batches(list(loader.epoch(2)), whole)


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_dropping_an_epoch_ends_its_thread(textures, epoch_two):
    loader = train_loader(textures)
    for _ in loader.epoch(0):
        break
    assert decoding_threads() == []
    assert_equal_batches(list(loader.epoch(2)), epoch_two)


@pytest.mark.parametrize("reader", ["ffcv", "pillow"])
def test_beton_that_is_cut_while_it_is_read_is_refused(tmp_path, reader):
    write_dataset(SyntheticImages(200, 4, classes=2, height=64, width=64), tmp_path / "data")
    dataset = open_dataset(tmp_path / "data")
    batches = train_loader(dataset, batch_size=4, transform=RandomResizedCrop(8), reader=reader).epoch(0)
    next(batches)
    time.sleep(0.2)  # what is read ahead is read: the next batch is the first to find the file cut
    os.truncate(dataset.path("train"), 2**20)
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"train\.beton was cut while it was read, before sample \d+"):
        list(batches)
    assert time.perf_counter() - start < 2
    assert [thread for thread in threading.enumerate() if "sparselt-reader" in thread.name] == decoding_threads() == []


def test_several_loaders_are_read_at_a_time(textures, epoch_two):
    loader = train_loader(textures)
    evaluation = StreamingEvalLoader(textures, CenterCrop(40), batch_size=8, threads=2)
    alone = list(evaluation)
    first, second, third = loader.epoch(2), loader.epoch(2), iter(evaluation)
    taken = list(zip(first, second, third, strict=False))
    assert len(taken) == 4
    for position, reader in enumerate((first, second, third)):
        expected = alone if position == 2 else epoch_two
        assert_equal_batches([batches[position] for batches in taken], expected[:4])
        reader.close()
    assert decoding_threads() == []


def test_loaders_of_several_threads_do_not_disturb_each_other(textures, epoch_two):
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: list(train_loader(textures).epoch(2)), range(3)))
    for batches in found:
        assert_equal_batches(batches, epoch_two)


def test_thread_counts_of_torch_and_numba_survive(textures):
    before, numba_before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(3)
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    try:
        for batch in islice(train_loader(textures, threads=1).epoch(0), 3):
            assert len(batch.labels) == 10
            assert (torch.get_num_threads(), numba.get_num_threads()) == (3, numba.config.NUMBA_NUM_THREADS)
        assert (torch.get_num_threads(), numba.get_num_threads()) == (3, numba.config.NUMBA_NUM_THREADS)
    finally:
        torch.set_num_threads(before)
        numba.set_num_threads(numba_before)


def test_broken_jpeg_is_named_by_its_index(textures, tmp_path):
    folder = shutil.copytree(textures.folder, tmp_path / "copy")
    beton = folder / "test.beton"
    loader = ffcv_bridge.make_loader(textures.path("test"), 4, 1, stock_decoder())
    address = int(loader.reader.metadata["f0"]["data_ptr"][17])
    with open(beton, "r+b") as file:
        file.seek(address)
        file.write(bytes(64))
    # Whoever damages a file before the manifest is made gets past the fingerprint: the decoder itself must notice.
    manifest = textures.manifest
    damaged = replace(manifest.splits["test"], fingerprint=fingerprint(beton))
    (folder / "manifest.json").write_text(replace(manifest, splits={**manifest.splits, "test": damaged}).to_json())
    for reader in ("ffcv", "pillow"):
        with pytest.raises(DataError, match=r"sample 17\b.* is broken|JPEG data of sample 17 is broken"):
            list(StreamingEvalLoader(open_dataset(folder), CenterCrop(40), batch_size=8, reader=reader))
    assert decoding_threads() == []


def test_failing_decoding_thread_raises_at_once(textures):
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder

    class Failing(SimpleRGBImageDecoder):
        def generate_code(self):
            def decode(indices, images, metadata, storage):
                raise RuntimeError("no such picture")

            return decode

    loader = ffcv_bridge.make_loader(textures.path("test"), 4, 1, Failing())
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"ended early, in the batch of 4 samples 4, 5, 6, 7: .*no such picture"):
        list(ffcv_bridge.iterate(loader, np.arange(4, 12)))
    assert time.perf_counter() - start < 2
    assert decoding_threads() == []
    assert len(list(StreamingEvalLoader(textures, CenterCrop(40), batch_size=30))) == 1


def stock_decoder():
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder

    return SimpleRGBImageDecoder()


def test_epoch_repeats_to_the_bit_however_often_it_is_read(textures, epoch_two):
    loader = train_loader(textures)
    for _ in range(15):
        assert_equal_batches(list(loader.epoch(2)), epoch_two)
