"""One small data set of each kind for all tests of this room: writing and compiling is what costs."""

import numpy as np
import pytest
from PIL import Image

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


@pytest.fixture
def pictures(tmp_path):
    """A folder in ImageNet's layout: two classes, noise of several sizes."""
    root, random = tmp_path / "pictures", np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (20 + 3 * index, 30 + index, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root
