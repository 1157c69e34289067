"""One small data set of each kind for all tests of this room: writing and compiling is what costs."""

import pytest

from sparselt.data import Digits, ResidentData, SyntheticImages, open_dataset, write_dataset, write_resident

TEXTURES = SyntheticImages(train_count=64, test_count=30, classes=4, height=96, width=120, seed=3)


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "made" / "for_it"
    write_dataset(Digits(), folder)
    return open_dataset(folder)


@pytest.fixture(scope="session")
def textures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("textures")
    write_dataset(TEXTURES, folder)
    return open_dataset(folder)


@pytest.fixture(scope="session")
def resident(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resident")
    write_resident(digits, folder)
    return ResidentData.open(folder)
