import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sparselt.data import (
    CenterCrop,
    Digits,
    ImageFolder,
    StreamingEvalLoader,
    SyntheticImages,
    open_dataset,
    write_dataset,
)
from sparselt.data.manifest import Manifest
from sparselt.errors import DataError


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


def test_manifest_survives_json(digits):
    manifest = digits.manifest
    assert Manifest.from_json(manifest.to_json(), "here") == manifest
    assert manifest.splits["train"].shape == (1, 8, 8)
    assert manifest.source == {"kind": "digits", "test_count": 500, "split_seed": 0}


def test_equal_sources_give_equal_bytes(digits, tmp_path):
    assert write_dataset(Digits(), tmp_path / "again").fingerprint == digits.manifest.fingerprint
    assert write_dataset(Digits(split_seed=1), tmp_path / "other").fingerprint != digits.manifest.fingerprint


def test_nothing_but_the_three_files_is_left(digits):
    assert sorted(path.name for path in digits.folder.iterdir()) == ["manifest.json", "test.beton", "train.beton"]


def test_second_data_set_in_one_folder_is_refused(digits):
    before = digits.path("train").read_bytes()
    with pytest.raises(DataError, match="already holds a data set"):
        write_dataset(Digits(split_seed=1), digits.folder)
    assert digits.path("train").read_bytes() == before


@pytest.mark.parametrize("workers", [1, 2])
def test_folder_of_pictures_is_written_with_its_classes(pictures, tmp_path, workers):
    done = []
    manifest = write_dataset(
        ImageFolder(str(pictures), jpeg_share=0.0),
        tmp_path / "out",
        workers=workers,
        progress=lambda split, count, total: done.append((split, count, total)),
    )
    assert manifest.class_names == ("ant", "bee")
    assert manifest.splits["train"].shape == "variable"
    assert done[-1] == ("test", 4, 4) and ("train", 8, 8) in done
    loader = StreamingEvalLoader(open_dataset(tmp_path / "out"), CenterCrop(8, ratio=0.4), batch_size=3, split="train")
    assert [label for batch in loader for label in batch.labels.tolist()] == [0] * 4 + [1] * 4


def test_about_the_asked_share_of_pictures_is_compressed(tmp_path):
    from sparselt.data.beton import _compressed

    share = _compressed(ImageFolder("x", jpeg_share=0.3), 4000)
    assert abs(share.mean() - 0.3) < 0.03
    assert np.array_equal(share[:50], _compressed(ImageFolder("x", jpeg_share=0.3), 50))


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_picture_is_named_and_nothing_is_left(pictures, tmp_path, workers):
    broken = pictures / "val" / "bee" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataError, match=r"val/bee/1\.png cannot be read"):
        write_dataset(ImageFolder(str(pictures)), tmp_path / "deep" / "out", workers=workers)
    assert not (tmp_path / "deep").exists()


def test_picture_too_large_for_a_page_is_named(pictures, tmp_path):
    Image.new("RGB", (3000, 2000)).save(pictures / "train" / "ant" / "huge.png")
    with pytest.raises(DataError, match=r"huge\.png cannot be written"):
        write_dataset(ImageFolder(str(pictures), max_resolution=3000, jpeg_share=0.0), tmp_path / "out")


def test_killed_writing_process_is_noticed(tmp_path):
    class Fatal(SyntheticImages):
        def samples(self, split):
            return FatalSamples(super().samples(split))

    class FatalSamples:
        def __init__(self, samples):
            self.samples = samples

        def __len__(self):
            return len(self.samples)

        def __getitem__(self, index):
            if index == 70:
                os.kill(os.getpid(), signal.SIGKILL)
            return self.samples[index]

    with pytest.raises(DataError, match="a writing process was killed"):
        write_dataset(Fatal(100, 4, classes=2, height=8, width=8), tmp_path / "out", workers=2)
    assert not (tmp_path / "out").exists()


def test_disk_that_takes_no_more_leaves_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 2**20, limits[1]))
    try:
        with pytest.raises(DataError, match="cannot be written"):
            write_dataset(Digits(), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "out").exists()


def test_interrupted_write_leaves_nothing(tmp_path):
    def interrupt(split, done, total):
        if split == "test":
            raise KeyboardInterrupt

    source = SyntheticImages(4, 4, 2, 8, 8, storage="raw")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("kept")
    with pytest.raises(KeyboardInterrupt):
        write_dataset(source, tmp_path / "out", progress=interrupt)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_path_of_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be made"):
        write_dataset(Digits(), tmp_path / "file" / "folder")


def test_folder_of_another_layout_is_refused(pictures, tmp_path):
    cases = {
        str(tmp_path / "nowhere"): "is not a folder",
        str(pictures / "train"): "train is missing",
        str(pictures / "train" / "ant"): "expected <root>/train/<class>",
    }
    for root, message in cases.items():
        with pytest.raises(DataError, match=message):
            write_dataset(ImageFolder(root), tmp_path / "out")
    (pictures / "val" / "cat").mkdir()
    with pytest.raises(DataError, match="only one of them has cat"):
        write_dataset(ImageFolder(str(pictures)), tmp_path / "out")
    (pictures / "train" / "cat").mkdir()
    with pytest.raises(DataError, match="cat holds no pictures"):
        write_dataset(ImageFolder(str(pictures)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_importing_the_room_imports_nothing_heavy():
    program = (
        "import sys, sparselt.data as data; data.Digits(), data.PadCrop, data.write_dataset, data.open_dataset;"
        "data.StreamingTrainLoader, data.ResidentTrainLoader;"
        "print([name for name in ('ffcv', 'torchvision', 'sklearn') if name in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
        == "[]"
    )


def test_without_ffcv_the_message_says_how_to_install_it(tmp_path):
    program = (
        "import sys; sys.modules['ffcv'] = None\n"  # how Python itself marks a module that cannot be imported
        "from sparselt.data import Digits, write_dataset\n"
        f"try: write_dataset(Digits(), {str(tmp_path / 'out')!r})\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.startswith("DataError") and "pip install sparselt[ffcv]" in printed and "libopencv-dev" in printed
    assert not (tmp_path / "out").exists()
