import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

from sparselt.data import (
    Digits,
    Normalize,
    PadCrop,
    RandomResizedCrop,
    ResidentData,
    ResidentEvalLoader,
    ResidentTrainLoader,
    SyntheticImages,
    open_dataset,
    sample_order,
    write_dataset,
    write_held_out,
    write_resident,
)
from sparselt.errors import DataError


def pad_crop(resident, padding=1, flip=True):
    normalization = resident.manifest.normalization
    return PadCrop(padding, flip, normalization.mean, normalization.std, normalization.scale)


def train_loader(resident, **changes):
    options = {"batch_size": 60, "order_seed": 4, "augmentation_seed": 5, "transform": pad_crop(resident)}
    return ResidentTrainLoader(resident, **{**options, **changes})


def by_index(batches):
    pairs = (pair for batch in batches for pair in zip(batch.indices, batch.images, strict=True))
    return {int(index): image.numpy() for index, image in pairs}


def test_digits_from_the_beton_equal_scikit_learns_bit_for_bit(resident):
    digits, order = load_digits(), sample_order(0, 0, 1797)
    for split, chosen in (("train", order[:1297]), ("test", order[1297:])):
        assert resident.images(split).dtype == torch.uint8
        assert np.array_equal(resident.images(split).numpy()[:, 0], digits.images[chosen])
        assert np.array_equal(resident.labels(split).numpy(), digits.target[chosen])


def test_colour_arrays_survive_the_round_trip(tmp_path):
    source = SyntheticImages(7, 3, classes=2, height=5, width=4, storage="raw")
    write_dataset(source, tmp_path / "data")
    write_resident(open_dataset(tmp_path / "data"), tmp_path / "resident")
    resident = ResidentData.open(tmp_path / "resident")
    assert resident.synthetic and resident.classes == 2
    for split in ("train", "test"):
        samples = source.samples(split)
        expected = np.stack([samples[index][0] for index in range(len(samples))])
        assert np.array_equal(resident.images(split).numpy(), expected)


def test_held_out_images_and_the_others_are_all_training_images_once(resident, tmp_path):
    write_held_out(resident, tmp_path / "divided", 297, seed=7)
    divided = ResidentData.open(tmp_path / "divided")
    assert (divided.count("train"), divided.count("test")) == (1000, 297)
    order = sample_order(7, 0, 1297)
    for split, chosen in (("train", order[297:]), ("test", order[:297])):
        places = np.sort(chosen)
        assert torch.equal(divided.images(split), resident.images("train")[places])
        assert torch.equal(divided.labels(split), resident.labels("train")[places])
    assert divided.manifest.normalization == resident.manifest.normalization


def test_training_batches_are_normalised_channels_last_and_complete(resident):
    loader = train_loader(resident)
    batches = list(loader.epoch(0))
    assert len(batches) == loader.steps_per_epoch == 21
    assert torch.cat([batch.indices for batch in batches]).tolist() == sample_order(4, 0, 1297)[: 21 * 60].tolist()
    for batch in batches:
        assert batch.images.shape == (60, 1, 8, 8) and batch.images.dtype == torch.float32
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.labels, resident.labels("train")[batch.indices])


def test_without_padding_and_flip_training_images_are_the_normalised_ones(resident):
    loader = train_loader(resident, transform=pad_crop(resident, padding=0, flip=False))
    normalization = resident.manifest.normalization
    for batch in loader.epoch(1):
        plain = resident.images("train")[batch.indices].double()
        expected = (plain / normalization.scale - normalization.mean[0]) / normalization.std[0]
        torch.testing.assert_close(batch.images.double(), expected, rtol=0, atol=2e-6)


def test_each_sample_is_augmented_alike_in_any_batch(resident):
    first = by_index(train_loader(resident).epoch(2))
    other = by_index(train_loader(resident, batch_size=7, order_seed=9).epoch(2))
    shared = first.keys() & other.keys()
    assert len(shared) > 1200
    assert all(np.array_equal(first[index], other[index]) for index in shared)


def test_augmentation_changes_with_its_seed_and_epoch_and_order_does_not(resident):
    first = next(train_loader(resident).epoch(0))
    reseeded = next(train_loader(resident, augmentation_seed=6).epoch(0))
    assert torch.equal(first.indices, reseeded.indices)
    assert not torch.equal(first.images, reseeded.images)
    zero, one = by_index(train_loader(resident).epoch(0)), by_index(train_loader(resident).epoch(1))
    assert sum(np.array_equal(zero[index], one[index]) for index in zero.keys() & one.keys()) < 300


def test_starting_inside_an_epoch_gives_the_rest_of_it(resident):
    whole = list(train_loader(resident).epoch(3))
    rest = list(train_loader(resident).epoch(3, start_step=18))
    assert len(rest) == 3
    for expected, found in zip(whole[18:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert list(train_loader(resident).epoch(3, start_step=21)) == []


def test_large_epochs_are_augmented_in_parts_that_join(resident, monkeypatch):
    whole = by_index(train_loader(resident).epoch(0))
    monkeypatch.setattr("sparselt.data.resident._CHUNK_BYTES", 4 * 64 * 60 * 2)
    parts = by_index(train_loader(resident).epoch(0))
    assert whole.keys() == parts.keys() and all(np.array_equal(whole[index], parts[index]) for index in whole)


@pytest.mark.parametrize("split", ["train", "test"])
def test_evaluation_counts_every_sample_once_in_order_and_unaugmented(resident, split):
    normalization = resident.manifest.normalization
    loader = ResidentEvalLoader(resident, normalization, batch_size=128, split=split)
    batches, again = list(loader), list(loader)
    count = resident.count(split)
    assert len(batches) == len(again) == len(loader) == -(-count // 128)
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(count))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), resident.labels(split))
    images = torch.cat([batch.images for batch in batches]).double()
    expected = (resident.images(split).double() / normalization.scale - normalization.mean[0]) / normalization.std[0]
    torch.testing.assert_close(images, expected, rtol=0, atol=2e-6)


def test_evaluation_batch_may_exceed_the_split_and_small_splits_need_no_cache(resident, monkeypatch):
    kept = list(ResidentEvalLoader(resident, resident.manifest.normalization, batch_size=10_000))
    monkeypatch.setattr("sparselt.data.resident._CACHE_BYTES", 0)
    fresh = list(ResidentEvalLoader(resident, resident.manifest.normalization, batch_size=10_000))
    assert len(kept) == len(fresh) == 1
    assert torch.equal(kept[0].images, fresh[0].images)


def test_training_and_evaluation_refuse_each_others_transform(resident):
    with pytest.raises(DataError, match="give a Normalize"):
        ResidentEvalLoader(resident, pad_crop(resident), batch_size=10)
    with pytest.raises(DataError, match="give a PadCrop"):
        train_loader(resident, transform=RandomResizedCrop(8))
    with pytest.raises(DataError, match="3 channels, the images have 1"):
        ResidentEvalLoader(resident, Normalize((0.5,) * 3, (0.5,) * 3), batch_size=10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Normalize((0.1, 0.2), (1.0,)),
        lambda: Normalize((0.1,), (0.0,)),
        lambda: Normalize((float("nan"),), (1.0,)),
        lambda: PadCrop(-1, False, (0.0,), (1.0,)),
        lambda: RandomResizedCrop(0),
        lambda: RandomResizedCrop(8, area=(0.5, 0.2)),
        lambda: RandomResizedCrop(8, aspect=(0.0, 1.0)),
    ],
)
def test_impossible_transforms_are_refused(make):
    with pytest.raises(DataError):
        make()


def test_damaged_or_missing_resident_files_are_refused(digits, tmp_path):
    write_resident(digits, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.safetensors", "train.safetensors"]
    train = tmp_path / "train.safetensors"
    whole = train.read_bytes()
    for contents in (whole[:-1], b"", b"no safetensors file at all"):
        train.write_bytes(contents)
        with pytest.raises(DataError, match=r"train\.safetensors cannot be read"):
            ResidentData.open(tmp_path)
    shutil.copy(tmp_path / "test.safetensors", train)
    with pytest.raises(DataError, match="expected"):
        ResidentData.open(tmp_path)
    with safe_open(tmp_path / "test.safetensors", framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    save_file(tensors, train)
    with pytest.raises(DataError, match="not a manifest"):
        ResidentData.open(tmp_path)
    train.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        ResidentData.open(tmp_path)


def test_splits_of_two_data_sets_are_refused(digits, tmp_path):
    write_dataset(Digits(split_seed=1), tmp_path / "other")
    write_resident(digits, tmp_path / "a")
    write_resident(open_dataset(tmp_path / "other"), tmp_path / "b")
    shutil.copy(tmp_path / "b" / "test.safetensors", tmp_path / "a")
    with pytest.raises(DataError, match="different data sets"):
        ResidentData.open(tmp_path / "a")


def test_pictures_do_not_become_resident(textures, tmp_path):
    with pytest.raises(DataError, match="stream them"):
        write_resident(textures, tmp_path / "out")
    assert not (tmp_path / "out").exists()
