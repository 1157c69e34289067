"""The transforms of a training and an evaluation from options, and loaders of data that is in memory already."""

import numpy as np
import pytest
import torch

from sparselt.data import (
    CenterCrop,
    PadCrop,
    RandomResizedCrop,
    ResidentTrainLoader,
    engine_for,
    eval_loader,
    eval_transform,
    train_loader,
    train_transform,
)
from sparselt.errors import DataError

SEEDS = {"order_seed": 3, "augmentation_seed": 9}


def test_transforms_are_normalised_as_the_manifest_says(digits, textures):
    normal = digits.manifest.normalization
    expected = PadCrop(1, False, normal.mean, normal.std, normal.scale)
    assert train_transform(digits.manifest, {"padding": 1, "flip": False}) == expected
    assert eval_transform(digits.manifest, None) == normal
    assert train_transform(textures.manifest, {"size": 16, "flip": True}) == RandomResizedCrop(16)
    assert eval_transform(textures.manifest, {"size": 16, "ratio": 0.5}) == CenterCrop(16, 0.5)


def test_data_in_memory_gives_the_batches_of_its_data_set(digits, resident):
    transform = train_transform(digits.manifest, {"padding": 1, "flip": True})
    assert engine_for(resident) == "resident"
    loader = train_loader(resident, 64, **SEEDS, transform=transform)
    assert isinstance(loader, ResidentTrainLoader) and loader._images is resident.images("train")
    streamed = train_loader(digits, 64, **SEEDS, transform=transform, engine="streaming")
    for one, other in zip(loader.epoch(1), streamed.epoch(1), strict=True):
        assert all(map(torch.equal, one, other))
    with pytest.raises(DataError, match="data in memory cannot be streamed"):
        train_loader(resident, 64, **SEEDS, transform=transform, engine="streaming")


@pytest.mark.parametrize("engine", ["resident", "streaming"])
def test_chosen_samples_are_evaluated_in_their_order(digits, engine):
    chosen = np.array([7, 3, 400])
    (batch,) = eval_loader(digits, eval_transform(digits.manifest, None), engine=engine, indices=chosen)
    assert batch.indices.tolist() == [7, 3, 400]


def test_evaluation_batches_fit_the_caches_unless_a_size_is_given(digits, resident, textures):
    normal = digits.manifest.normalization
    assert eval_loader(resident, normal).batch_size == 500  # of 8 x 8 pixels a thousand would fit, and there are 500
    assert eval_loader(resident, normal, split="train").batch_size == 1000
    assert eval_loader(resident, normal, 32).batch_size == 32
    big = eval_transform(textures.manifest, {"size": 224})
    assert eval_loader(textures, big, split="train").batch_size == 64
