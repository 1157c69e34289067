"""Writes that cannot be done, fail, or are killed: a clear sentence, and nothing left that could be taken for data."""

import multiprocessing
import os
import resource
import signal
import time

import numpy as np
import pytest
from PIL import Image

from sparselt.data import Digits, ImageFolder, SyntheticImages, write_dataset
from sparselt.errors import DataError

THREE = ["manifest.json", "test.beton", "train.beton"]
UNFINISHED = [".manifest.json.partial", ".train.beton.partial"]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def break_picture(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_picture_is_named_and_nothing_is_left(pictures, tmp_path, workers):
    break_picture(pictures / "val" / "bee" / "1.png")
    with pytest.raises(DataError, match=r"val/bee/1\.png cannot be read.*--skip-unreadable"):
        write_dataset(ImageFolder(str(pictures)), tmp_path / "deep" / "out", workers=workers)
    assert not (tmp_path / "deep").exists()


def test_class_without_a_readable_picture_is_refused(pictures, tmp_path):
    for path in (pictures / "val" / "bee").iterdir():
        break_picture(path)
    with pytest.raises(DataError, match="no picture of class bee in the test split"):
        write_dataset(ImageFolder(str(pictures)), tmp_path / "out", skip_unreadable=True)
    assert not (tmp_path / "out").exists()


def test_picture_too_large_for_a_page_is_named(pictures, tmp_path):
    Image.new("RGB", (3000, 2000)).save(pictures / "train" / "ant" / "huge.png")
    with pytest.raises(DataError, match=r"huge\.png cannot be written"):
        write_dataset(ImageFolder(str(pictures), max_resolution=3000, jpeg_share=0.0), tmp_path / "out")


class Altered:
    """A source of four arrays whose sample 2 is `image`, `label`."""

    kind, field, classes, class_names, image_shape = "altered", "ndarray", 2, ("a", "b"), (1, 2, 3)

    def __init__(self, image, label=0):
        self.sample = image, label

    def samples(self, split):
        good = (np.zeros((1, 2, 3), dtype=np.uint8), 1)
        return NamedList([good, good, self.sample, good] if split == "train" else [])


class NamedList(list):
    def name(self, index):
        return f"sample {index}"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Altered(np.zeros((1, 3, 2), dtype=np.uint8)), r"sample 2 .*shape \(1, 3, 2\), expected \(1, 2, 3\)"),
        (Altered(np.zeros((1, 2, 3), dtype=np.float32)), "sample 2 .*float32"),
        (Altered(np.zeros((1, 2, 3), dtype=np.uint8), 2), "sample 2 .*label 2 is not one of 2 classes"),
        (Altered(np.zeros((1, 2, 3), dtype=np.uint8), -1), "sample 2 .*label -1"),
        (Altered(np.zeros((1, 2, 3), dtype=np.uint8)), "the test split of altered holds no images"),
    ],
)
def test_sample_that_does_not_fit_its_source_is_named(source, message, workers, tmp_path):
    with pytest.raises(DataError, match=message):
        write_dataset(source, tmp_path / "out", workers=workers)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [0, -1, 10_000])
def test_number_of_processes_is_bounded(tmp_path, workers):
    with pytest.raises(DataError, match=f"{workers} writing processes: ask for 1 to"):
        write_dataset(Digits(), tmp_path / "out", workers=workers)
    assert not (tmp_path / "out").exists()


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


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("bytes_taken", [4096, 2**21 + 40_000, 2**22 + 10])
def test_disk_that_takes_no_more_leaves_nothing(tmp_path, workers, bytes_taken):
    """A limit on the size of a file, met in the table, in a page, and in the list of allocations."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_taken, limits[1]))
    try:
        with pytest.raises(DataError, match=r"out cannot be written .*free space"):
            write_dataset(Digits(), tmp_path / "out", workers=workers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupted_write_leaves_nothing(tmp_path, workers):
    def interrupt(split, done, total):
        if split == "test":
            raise KeyboardInterrupt

    source = SyntheticImages(4, 80, 2, 8, 8, storage="raw")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("kept")
    with pytest.raises(KeyboardInterrupt):
        write_dataset(source, tmp_path / "out", workers=workers, progress=interrupt)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def write_slowly(folder, begun):
    def progress(split, done, total):
        begun.set()
        time.sleep(0.05)

    source = SyntheticImages(20_000, 4, classes=2, height=8, width=8, storage="raw")
    write_dataset(source, folder, workers=2, progress=progress)


@pytest.fixture
def slow_write(tmp_path):
    """A process that is writing to tmp_path / "out", by two processes of its own."""
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    process = context.Process(target=write_slowly, args=(tmp_path / "out", begun))
    process.start()
    assert begun.wait(20)
    yield process
    process.kill()
    process.join()


def test_next_write_clears_what_a_killed_one_left(tmp_path, slow_write):
    out, children = tmp_path / "out", children_of(slow_write.pid)
    assert len(children) == 2
    assert names_in(out) == UNFINISHED
    slow_write.kill()
    slow_write.join()
    assert names_in(out) == UNFINISHED
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{child}") and not is_dead(child) for child in children):
        assert time.monotonic() < deadline, "the writing processes outlive their parent"
        time.sleep(0.02)
    (out / ".notes.partial").write_text("not ours")
    write_dataset(SyntheticImages(4, 4, 2, 8, 8, storage="raw"), out)
    assert names_in(out) == [".notes.partial", *THREE]


def test_folder_that_another_process_writes_to_is_refused_and_its_files_are_left_alone(tmp_path, slow_write):
    with pytest.raises(DataError, match="is being written by another process"):
        write_dataset(Digits(), tmp_path / "out")
    assert names_in(tmp_path / "out") == UNFINISHED
    assert slow_write.is_alive()


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def is_dead(pid):
    """Ended, and at most waiting to be collected."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("file/folder", "cannot be made"),
        ("/proc/sparselt", "cannot be made"),
        ("/dev/null", "cannot be made"),
        ("/proc/self", "cannot be written"),
    ],
)
def test_folder_that_cannot_be_made_or_written_is_refused(tmp_path, folder, message):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=message):
        write_dataset(Digits(), tmp_path / folder)


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


def test_a_beton_of_somebody_else_is_not_replaced(tmp_path):
    (tmp_path / "train.beton").write_text("mine")
    with pytest.raises(DataError, match=r"holds a train\.beton without a manifest\.json"):
        write_dataset(Digits(), tmp_path)
    assert (tmp_path / "train.beton").read_text() == "mine"
