import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sparselt.data import Digits, ImageFolder, SyntheticImages, source_from_record, source_record
from sparselt.errors import DataError


def test_digits_splits_hold_every_digit_once():
    both = [Digits().samples(split) for split in ("train", "test")]
    assert [len(samples) for samples in both] == [1297, 500]
    found = sorted(
        image.tobytes() + bytes([label])
        for samples in both
        for image, label in map(samples.__getitem__, range(len(samples)))
    )
    digits = load_digits()
    expected = sorted(
        image.astype(np.uint8).tobytes() + bytes([label])
        for image, label in zip(digits.images, digits.target, strict=True)
    )
    assert found == expected


def test_digits_are_the_same_where_scikit_learn_has_no_file_of_them(monkeypatch):
    expected = Digits().arrays("train")
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    for array, of_scikit_learn in zip(expected, Digits().arrays("train"), strict=True):
        assert array.dtype == of_scikit_learn.dtype and np.array_equal(array, of_scikit_learn)


def test_digits_normalization_standardizes_the_training_split():
    digits = Digits()
    normalization = digits.normalization()
    pixels = (digits.samples("train").images / normalization.scale - normalization.mean[0]) / normalization.std[0]
    assert abs(pixels.mean()) < 1e-12
    assert abs(pixels.std() - 1) < 1e-12


def test_digits_split_depends_on_its_seed():
    assert not np.array_equal(Digits().samples("test").labels, Digits(split_seed=1).samples("test").labels)


@pytest.mark.parametrize(("difficulty", "least"), [(0.1, 0.95), (0.6, 0.8)])
def test_synthetic_classes_can_be_learned_from_their_mean_colour(difficulty, least):
    source = SyntheticImages(60, 60, classes=3, height=24, width=24, difficulty=difficulty)
    colours = {
        split: np.stack([source.samples(split)[index][0].mean(axis=(0, 1)) for index in range(60)])
        for split in ("train", "test")
    }
    labels = np.arange(60) % 3
    centres = np.stack([colours["train"][labels == label].mean(axis=0) for label in range(3)])
    distances = ((colours["test"][:, None] - centres[None]) ** 2).sum(axis=2)
    assert (distances.argmin(axis=1) == labels).mean() >= least


@pytest.mark.parametrize("source", [Digits(), SyntheticImages(2, 1, 2, 4, 4), ImageFolder(root="/somewhere")])
def test_source_record_is_json_and_names_the_kind(source):
    record = json.loads(json.dumps(source_record(source)))
    assert record.pop("kind") == source.kind
    assert type(source)(**record) == source
    assert source_from_record(source_record(source)) == source


def test_synthetic_data_says_so():
    assert "not real" in SyntheticImages(2, 1, 2, 4, 4).describe()
    assert Digits().describe().startswith("Real images")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Digits(test_count=1797),
        lambda: Digits(test_count=0),
        lambda: SyntheticImages(0, 1, 2, 4, 4),
        lambda: SyntheticImages(4, 1, 1, 4, 4),
        lambda: SyntheticImages(4, 0, 2, 4, 4),
        lambda: SyntheticImages(-4, 1, 2, 4, 4),
        lambda: SyntheticImages(4, 1, -2, 4, 4),
        lambda: SyntheticImages(4, 1, 2, -4, 4),
        lambda: SyntheticImages(4, 1, 2, 4, 0),
        lambda: SyntheticImages(4, 1, 2, 4, 70_000),
        lambda: SyntheticImages(4, 1, 2, 50_000, 50_000, storage="raw"),
        lambda: SyntheticImages(4, 1, 2, 4, 4, channels=1),
        lambda: SyntheticImages(4, 1, 2, 4, 4, channels=0, storage="raw"),
        lambda: SyntheticImages(4, 1, 2, 4, 4, difficulty=-0.1),
        lambda: SyntheticImages(4, 1, 2, 4, 4, difficulty=float("nan")),
        lambda: SyntheticImages(4, 1, 2, 4, 4, difficulty=1.0),
        lambda: SyntheticImages(4, 1, 2, 4, 4, storage="png"),
        lambda: SyntheticImages(4, 1, 2, 4, 4, quality=0),
        lambda: ImageFolder("x", jpeg_share=1.5),
        lambda: ImageFolder("x", jpeg_share=-0.5),
        lambda: ImageFolder("x", quality=101),
        lambda: ImageFolder("x", max_resolution=0),
    ],
)
def test_impossible_sources_are_refused(make):
    with pytest.raises(DataError):
        make()
