"""One beton, three ways to read it: FFCV, Pillow without FFCV, and the whole of it in memory."""

import hashlib
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sparselt.data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CenterCrop,
    ImageFolder,
    Normalize,
    PadCrop,
    RandomResizedCrop,
    StreamingEvalLoader,
    StreamingTrainLoader,
    SyntheticImages,
    engine_for,
    eval_loader,
    open_dataset,
    train_loader,
    write_dataset,
)
from sparselt.data.beton import Beton
from sparselt.errors import DataError

JPEG_TOLERANCE, JPEG_MEAN = 12, 2.0
"""Levels of 255, at most and on average: what FFCV's faster inverse transform changes, in a picture of quality 90."""

SEEDS = {"order_seed": 1, "augmentation_seed": 2}


def assert_equal_batches(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def levels(batches):
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1)
    return torch.cat([batch.images * std + torch.tensor(IMAGENET_MEAN).view(3, 1, 1) for batch in batches]) * 255


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """The real photographs that scikit-learn and Matplotlib ship, whole and in parts, by the share stored as JPEG."""
    folder = tmp_path_factory.mktemp("photographs")
    for number, picture in enumerate(real_photographs()):
        for split in ("train", "val"):
            (folder / "in" / split / str(number)).mkdir(parents=True)
            for part in range(3):
                side = picture.crop((40 * part, 30 * part, picture.width - 50 * part, picture.height - 20 * part))
                side.save(folder / "in" / split / str(number) / f"{part}.png")
    found = {}
    for share in (0.0, 1.0):
        write_dataset(ImageFolder(str(folder / "in"), max_resolution=1000, jpeg_share=share), folder / str(share))
        found[share] = open_dataset(folder / str(share))
    return found


def real_photographs():
    from matplotlib.cbook import get_sample_data
    from sklearn.datasets import load_sample_images

    with get_sample_data("grace_hopper.jpg") as file:
        return [*map(Image.fromarray, load_sample_images().images), Image.open(file).convert("RGB")]


def both(dataset, transform, kind):
    if kind is StreamingTrainLoader:
        loaders = [kind(dataset, 4, **SEEDS, transform=transform, threads=2, reader=r) for r in ("ffcv", "pillow")]
        return [list(loader.epoch(3)) for loader in loaders]
    return [list(kind(dataset, transform, 4, threads=2, reader=reader)) for reader in ("ffcv", "pillow")]


@pytest.mark.parametrize(
    ("transform", "kind"),
    [(RandomResizedCrop(96), StreamingTrainLoader), (CenterCrop(96), StreamingEvalLoader)],
    ids=["training", "evaluation"],
)
def test_pillow_shows_the_samples_crops_and_flips_that_ffcv_shows(photographs, transform, kind):
    assert_equal_batches(*both(photographs[0.0], transform, kind))
    through_ffcv, through_pillow = both(photographs[1.0], transform, kind)
    for one, other in zip(through_ffcv, through_pillow, strict=True):
        assert torch.equal(one.labels, other.labels) and torch.equal(one.indices, other.indices)
    difference = (levels(through_ffcv) - levels(through_pillow)).abs()
    assert difference.max() <= JPEG_TOLERANCE and difference.mean() <= JPEG_MEAN


@pytest.mark.parametrize("reader", ["ffcv", "pillow"])
def test_evaluation_shows_what_torchvisions_resize_and_centre_crop_show(photographs, reader):
    """Within 2 levels of 255 a pixel where pixels are stored raw; JPEG of quality 90 adds its own error."""
    from torchvision import transforms

    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    files = sorted((photographs[0.0].folder.parent / "in" / "val").rglob("*.png"))
    expected = np.stack([np.asarray(theirs(Image.open(file)), dtype=float) for file in files])
    for share, most, mean in ((0.0, 2.01, 0.5), (1.0, 60, 3.0)):
        loader = StreamingEvalLoader(photographs[share], CenterCrop(224), 4, threads=2, reader=reader)
        found = levels(list(loader)).permute(0, 2, 3, 1).numpy()
        difference = abs(found - expected)
        assert difference.max() <= most and difference.mean() <= mean


def test_unknown_reader_is_refused(textures):
    with pytest.raises(DataError, match="choose one of auto, ffcv, pillow"):
        StreamingEvalLoader(textures, CenterCrop(8), 4, reader="dali")


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    write_dataset(SyntheticImages(60, 21, classes=3, height=12, width=10, storage="raw"), folder)
    return open_dataset(folder)


@settings(deadline=None, max_examples=15)
@given(
    batch_size=st.integers(1, 60),
    epoch=st.integers(0, 99),
    padding=st.integers(0, 4),
    flip=st.booleans(),
    share=st.floats(0, 1),
    threads=st.integers(1, 64),
)
def test_both_engines_give_the_same_bytes_from_any_step_on(arrays, batch_size, epoch, padding, flip, share, threads):
    transform = PadCrop(padding, flip, (0.5,) * 3, (0.25,) * 3)
    engines = [
        train_loader(arrays, batch_size, **SEEDS, transform=transform, engine=engine, threads=threads)
        for engine in ("resident", "streaming")
    ]
    start = int(share * engines[0].steps_per_epoch)
    assert_equal_batches(*(list(loader.epoch(epoch, start)) for loader in engines))
    plain = Normalize((0.5,) * 3, (0.25,) * 3)
    tests = [eval_loader(arrays, plain, batch_size, engine=engine) for engine in ("resident", "streaming")]
    assert_equal_batches(*map(list, tests))


def test_engine_follows_from_the_size_of_the_data_unless_it_is_named(arrays, textures, monkeypatch):
    transform = PadCrop(1, True, (0.5,) * 3, (0.25,) * 3)
    assert engine_for(textures) == "streaming"
    for free, engine in ((2**40, "resident"), (2**20, "streaming")):
        monkeypatch.setattr("sparselt.data.loaders.free_bytes", lambda device, free=free: free)
        assert engine_for(arrays) == engine
        assert engine.title() in type(train_loader(arrays, 4, **SEEDS, transform=transform)).__name__
    assert type(train_loader(arrays, 4, **SEEDS, transform=transform, engine="resident")).__name__.startswith(
        "Resident"
    )


def test_kept_batches_are_not_written_over(arrays, textures):
    for loader in (
        train_loader(textures, 8, **SEEDS, transform=RandomResizedCrop(16)),
        StreamingTrainLoader(textures, 8, **SEEDS, transform=RandomResizedCrop(16), reader="pillow"),
        train_loader(arrays, 8, **SEEDS, transform=PadCrop(1, True, (0.5,) * 3, (0.25,) * 3), engine="streaming"),
    ):
        kept, copies = [], []
        for batch in loader.epoch(0):
            kept.append(batch)
            copies.append([tensor.clone() for tensor in batch])
        assert_equal_batches(kept, copies)
        batch.images.zero_()
        assert_equal_batches(list(loader.epoch(0)), copies)


def test_sample_that_is_not_there_is_refused(textures):
    beton = Beton(textures.path("test"))
    for index in (-1, 30):
        with pytest.raises(DataError, match=rf"has no sample {index}: it holds 30"):
            beton.image(index)


def run_without_ffcv(program: str) -> str:
    """What a process prints in which nothing can import FFCV, nor OpenCV, which comes with it."""
    blocked = """
        import sys, warnings
        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("ffcv", "cv2"):
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.meta_path.insert(0, Blocked())
        warnings.simplefilter("always")
    """
    script = textwrap.dedent(blocked) + textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_without_ffcv_pictures_stream_the_same_and_it_is_said_once(textures):
    printed = run_without_ffcv(f"""
        from sparselt.data import *
        import hashlib
        dataset = open_dataset({str(textures.folder)!r})
        train = StreamingTrainLoader(dataset, 10, order_seed=1, augmentation_seed=2, transform=RandomResizedCrop(40))
        test = StreamingEvalLoader(dataset, CenterCrop(40), 16, threads=2)
        digest = hashlib.sha256()
        for batch in [*train.epoch(2), *train.epoch(0, 3), *test]:
            for tensor in batch:
                digest.update(tensor.contiguous().numpy().tobytes())
        print(train.reader, test.reader, digest.hexdigest())
    """)
    train = StreamingTrainLoader(textures, 10, **SEEDS, transform=RandomResizedCrop(40), reader="pillow")
    test = StreamingEvalLoader(textures, CenterCrop(40), 16, reader="pillow")
    digest = hashlib.sha256()
    for batch in [*train.epoch(2), *train.epoch(0, 3), *test]:
        for tensor in batch:
            digest.update(tensor.contiguous().numpy().tobytes())
    assert f"pillow pillow {digest.hexdigest()}" in printed
    assert printed.count("UserWarning") == printed.count("pip install sparselt[ffcv]") == 1


def test_without_ffcv_the_digits_are_written_kept_and_trained_on(bench, tmp_path):
    """The same data set, to the byte, and the same training as with FFCV."""
    printed = run_without_ffcv(f"""
        import dataclasses, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from conftest import Bench
        from sparselt.runs.store import Store
        bench = Bench(Store(Path({str(tmp_path)!r})))
        lab = bench.lab(steps=6, milestones=(), rewind_steps=(0,), control_rewind_step=0)
        print(bench.json(lab.dense(0), "measurements.json"))
    """)
    lab = bench.lab(steps=6, milestones=(), rewind_steps=(0,), control_rewind_step=0)
    assert str(bench.json(lab.dense(0), "measurements.json")) in printed
