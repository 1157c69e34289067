"""The textures can be learned, and less well the more difficult they are made."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from sparselt.data import SyntheticImages


def pixels_and_labels(source, split):
    images, labels = zip(*source.samples(split), strict=True)
    return np.stack(images).astype(np.float32) / 255, np.array(labels)


def accuracy_of_logistic_regression(difficulty):
    source = SyntheticImages(200, 400, classes=4, height=24, width=24, difficulty=difficulty, storage="raw")
    images, labels = pixels_and_labels(source, "train")
    model = LogisticRegression(max_iter=200).fit(images.reshape(len(images), -1), labels)
    images, labels = pixels_and_labels(source, "test")
    return model.score(images.reshape(len(images), -1), labels)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_accuracy_falls_with_difficulty_from_all_to_chance():
    """Four classes; the standard error of an accuracy from 400 samples is at most 0.025."""
    accuracies = [accuracy_of_logistic_regression(difficulty) for difficulty in (0.0, 0.4, 0.6, 0.8, 0.95)]
    assert accuracies[0] > 0.98
    assert all(easier - harder > 0.05 for easier, harder in itertools.pairwise(accuracies))
    assert accuracies[-1] < 0.35


def test_a_small_convolutional_network_learns_the_textures_when_the_colour_is_gone():
    """One channel and the mean of each image taken away: only the waves are left."""
    source = SyntheticImages(
        240, 120, classes=3, height=16, width=16, channels=1, difficulty=0.2, seed=5, storage="raw"
    )
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 12, 5), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(12, 3),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    data = {}
    for split in ("train", "test"):
        images, labels = pixels_and_labels(source, split)
        images = (images - images.mean(axis=(2, 3), keepdims=True)) / 0.2
        data[split] = torch.from_numpy(images), torch.from_numpy(labels)
    images, labels = data["train"]
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    images, labels = data["test"]
    assert (network(images).argmax(dim=1) == labels).float().mean() > 0.9


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 40)),
    classes=st.integers(2, 1200),
    count=st.integers(1, 2000),
    difficulty=st.floats(0, 0.99),
    data=st.data(),
)
def test_images_of_any_shape_and_count_repeat(shape, classes, count, difficulty, data):
    channels, height, width = shape
    source = SyntheticImages(count, count, classes, height, width, channels, difficulty, storage="raw")
    index = data.draw(st.integers(0, count - 1))
    image, label = source.samples("train")[index]
    assert (image.shape, image.dtype, label) == (shape, np.uint8, index % classes)
    again, _ = source.samples("train")[index]
    assert np.array_equal(image, again)
    normalization = source.normalization()
    assert len(normalization.mean) == len(normalization.std) == channels


def test_splits_samples_and_seeds_share_no_image():
    def source(seed):
        return SyntheticImages(8, 8, classes=2, height=9, width=7, storage="raw", seed=seed)

    images = [
        source(seed).samples(split)[index][0].tobytes()
        for seed in (0, 1)
        for split in ("train", "test")
        for index in range(8)
    ]
    assert len(set(images)) == len(images) == math.prod((2, 2, 8))


def test_both_storages_show_the_same_image():
    raw, jpeg = (SyntheticImages(4, 4, 2, 9, 7, storage=storage).samples("train")[3][0] for storage in ("raw", "jpeg"))
    assert np.array_equal(raw.transpose(1, 2, 0), jpeg)
