"""The command line of `sparselt data write`: every source's fields, and sources of one's own."""

import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from sparselt import own
from sparselt.data import (
    CIFAR10,
    Beton,
    Digits,
    ImageFolder,
    Source,
    SyntheticImages,
    open_dataset,
    source_from_record,
    source_record,
    write_dataset,
)
from sparselt.data.cli import parse_write
from sparselt.data.sources import find_source, source_names
from sparselt.errors import DataError

SHAPES = '''
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sparselt.data import Source


@dataclass(frozen=True)
class Stripes(Source):
    """Stripes across or down."""

    period: int = 2
    train_count: int = 6
    test_count: int = 4
    classes: ClassVar[int] = 2
    image_shape: ClassVar[tuple[int, int, int]] = (1, 4, 4)

    def arrays(self, split):
        count = self.train_count if split == "train" else self.test_count
        labels = np.arange(count) % 2
        stripe = (np.indices((4, 4)) // self.period % 2 * 200).astype(np.uint8)
        return stripe[labels][:, None], labels


@dataclass(frozen=True)
class Wide(Stripes):
    def arrays(self, split):
        images, labels = super().arrays(split)
        return images[..., :3], labels


@dataclass(frozen=True)
class Uncounted(Source):
    classes: ClassVar[int] = 2

NUMBER = 3
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "own_shapes.py"
    path.write_text(SHAPES)
    yield path
    sys.modules.pop("own_shapes", None)
    own.entry_points.cache_clear()


def test_every_source_has_its_fields_as_options(tmp_path):
    out = str(tmp_path / "out")
    write = parse_write(["digits", out, "--test", "97", "--split-seed", "3"])
    assert (write.source, write.folder, write.workers, write.skip_unreadable) == (
        Digits(97, 3),
        tmp_path / "out",
        1,
        False,
    )
    assert parse_write(["cifar10", out, "--source", "files"]).source == CIFAR10("files")
    options = ("--max-resolution=20", "--compress-probability=0.25", "--jpeg-quality=70", "--num-workers=2")
    write = parse_write(["imagenet", "pictures", out, *options, "--skip-unreadable"])
    assert write.source == ImageFolder("pictures", max_resolution=20, jpeg_share=0.25, quality=70)
    assert (write.workers, write.skip_unreadable, write.folder) == (2, True, tmp_path / "out")
    size = ("--train=9", "--test=4", "--classes=3", "--height=5", "--width=6", "--channels=4")
    write = parse_write(["synthetic", out, *size, "--storage=raw", "--difficulty=0.1"])
    assert write.source == SyntheticImages(9, 4, 3, 5, 6, channels=4, storage="raw", difficulty=0.1)
    assert parse_write(["synthetic", out]).source == SyntheticImages(10_000, 1_000, 10, 96, 112)


def test_help_names_the_sources_and_the_options_of_each(capsys):
    assert source_names()[:5] == ["digits", "cifar10", "cifar100", "mnist", "fashion_mnist"]
    assert source_names()[5:8] == ["imagenet", "pictures", "synthetic"]
    for arguments in ([], ["--help"]):
        with pytest.raises(SystemExit):
            parse_write(arguments)
        shown = capsys.readouterr().out
        assert all(name in shown for name in source_names()) and "1,797 handwritten digits" in shown
    with pytest.raises(SystemExit):
        parse_write(["imagenet", "--help"])
    shown = capsys.readouterr().out
    for part in ("SOURCE", "FOLDER", "--jpeg-share", "--compress-probability", "Share of pictures stored as", "--seed"):
        assert part in shown


def test_values_that_a_source_refuses_are_named():
    with pytest.raises(DataError, match="test_count 0 must leave digits"):
        parse_write(["digits", "out", "--test", "0"])
    with pytest.raises(DataError, match=r"unknown source 'digit'.*digits.*package\.module:Name"):
        parse_write(["digit", "out"])


def test_a_source_of_ones_own_is_written_and_read_back(module, tmp_path):
    write = parse_write(["own_shapes:Stripes", str(tmp_path / "out"), "--period", "1"])
    write_dataset(write.source, write.folder)
    dataset = open_dataset(tmp_path / "out").require(classes=2, shape=(1, 4, 4), field="ndarray")
    assert dataset.manifest.source["kind"] == "own_shapes:Stripes" and dataset.manifest.source["period"] == 1
    images, labels = write.source.arrays("train")
    beton = Beton(dataset.path("train"))
    assert np.array_equal(np.stack([beton.image(k) for k in range(6)]), images)
    assert np.array_equal(beton.labels, labels)
    assert dataset.manifest.normalization.mean == pytest.approx((images.mean() / 255,))
    assert source_from_record(source_record(write.source)) == write.source


def test_an_edit_of_its_file_makes_it_another_source(module):
    stripes = find_source("own_shapes:Stripes")
    before = source_record(stripes())
    module.write_text(SHAPES.replace("200", "100"))
    assert source_record(stripes()) != before
    with pytest.raises(DataError, match="own_shapes:Stripes has been edited since the run was planned"):
        source_from_record(before)
    assert "source_sha256" not in source_record(Digits())


def test_a_source_that_a_package_announces_is_found_by_name(module, tmp_path, capsys):
    installed = tmp_path / "own_package-1.dist-info"
    installed.mkdir()
    (installed / "entry_points.txt").write_text("[sparselt.data_sources]\nstripes = own_shapes:Stripes\n")
    own.entry_points.cache_clear()
    assert parse_write(["stripes", "out"]).source == find_source("own_shapes:Stripes")()
    with pytest.raises(SystemExit):
        parse_write(["--help"])
    assert "Stripes across or down" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_shapes:NUMBER", "3 is not a source; expected a frozen dataclass derived from"),
        ("own_shapes:dataclass", "is not a source"),
        ("own_shapes:Uncounted", "Uncounted lacks image_shape, train_count, test_count"),
        ("own_shapes:Absent", "defines no 'Absent'"),
        ("own_nothing:Absent", "own_nothing cannot be imported"),
    ],
)
def test_what_is_not_a_source_is_refused(module, name, message):
    for use in (lambda: find_source(name), lambda: source_from_record({"kind": name})):
        with pytest.raises(DataError, match=message):
            use()


def test_arrays_that_are_not_as_announced_are_refused(module, tmp_path):
    with pytest.raises(DataError, match=r"Wide has train images \(6, 1, 4, 3\) of uint8 .*expected \(6, 1, 4, 4\)"):
        write_dataset(find_source("own_shapes:Wide")(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_that_no_other_process_could_make_is_refused():
    @dataclass(frozen=True)
    class Local(Source):
        classes: ClassVar[int] = 2
        image_shape: ClassVar[tuple[int, int, int]] = (1, 2, 2)
        train_count: ClassVar[int] = 4
        test_count: ClassVar[int] = 4

    with pytest.raises(DataError, match="define it at the top of a module"):
        source_record(Local())
