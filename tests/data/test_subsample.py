"""Evaluating some samples of a split only."""

import numpy as np
import pytest
import torch

from sparselt.data import Digits, ResidentData, ResidentEvalLoader, StreamingEvalLoader, open_dataset, write_dataset
from sparselt.errors import DataError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_dataset(Digits(), folder)
    return open_dataset(folder)


def loader(dataset, engine, indices, batch_size=4):
    normal = dataset.manifest.normalization
    if engine == "resident":
        return ResidentEvalLoader(ResidentData.read(dataset), normal, batch_size, split="train", indices=indices)
    return StreamingEvalLoader(dataset, normal, batch_size, split="train", indices=indices)


@pytest.mark.parametrize("engine", ["resident", "streaming"])
def test_the_samples_chosen_are_those_of_the_whole_split(dataset, engine):
    indices = np.array([7, 3, 1200, 5, 5, 0])
    whole = {
        int(i): image for b in loader(dataset, engine, None, 200) for i, image in zip(b.indices, b.images, strict=True)
    }
    some = loader(dataset, engine, indices)
    assert some.count == 6 and len(some) == 2
    for _ in range(2):
        batches = list(some)
        assert [len(batch.labels) for batch in batches] == [4, 2]
        assert torch.cat([batch.indices for batch in batches]).tolist() == indices.tolist()
        images = torch.cat([batch.images for batch in batches])
        assert torch.equal(images, torch.stack([whole[i] for i in indices.tolist()]))


@pytest.mark.parametrize("engine", ["resident", "streaming"])
@pytest.mark.parametrize("indices", [[], [-1], [1297], [0.5], [[1]]])
def test_indices_that_are_no_samples_are_refused(dataset, engine, indices):
    with pytest.raises(DataError, match="indices"):
        loader(dataset, engine, np.array(indices))
