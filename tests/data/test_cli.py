import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sparselt.cli.main import main
from sparselt.data import Beton, Dataset, ImageFolder, SyntheticImages, open_dataset, write_dataset
from sparselt.data.cli import info_command, write_command
from sparselt.data.contact_sheet import write_contact_sheet
from sparselt.errors import DataError


@pytest.fixture
def small(tmp_path):
    write_dataset(SyntheticImages(25, 3, classes=2, height=6, width=4, storage="raw"), tmp_path / "small")
    return open_dataset(tmp_path / "small")


def test_write_command_prints_what_info_prints(tmp_path, capsys):
    write_command(SyntheticImages(5, 3, classes=2, height=6, width=4, storage="raw"), tmp_path / "out")
    *written, hint = capsys.readouterr().out.splitlines()
    assert "Synthetic images, not real ones" in written[0]
    assert any("5 images, 3 x 6 x 4" in line for line in written)
    assert hint == f"to look at samples: sparselt data info {tmp_path / 'out'}"
    for place in (tmp_path / "out", tmp_path / "out" / "train.beton"):
        info_command(place)
        *printed, sheet = capsys.readouterr().out.splitlines()
        assert printed == written
        assert sheet == f"samples      {tmp_path / 'out' / 'samples.png'}"


def test_progress_bar_goes_to_a_terminal_only(tmp_path, capsys):
    write_command(SyntheticImages(5, 3, classes=2, height=6, width=4, storage="raw"), tmp_path / "out")
    assert capsys.readouterr().err == ""


def test_info_command_refuses_a_folder_without_data_and_a_beton_of_another(tmp_path, small):
    with pytest.raises(DataError, match="sparselt data write"):
        info_command(tmp_path)
    shutil.copy(small.path("train"), small.folder / "other.beton")
    with pytest.raises(DataError, match=r"other\.beton is not of the data set in its folder"):
        info_command(small.folder / "other.beton")


def test_info_as_json_is_the_manifest_and_draws_nothing_unasked(small, capsys, tmp_path):
    info_command(small.folder, as_json=True)
    record = json.loads(capsys.readouterr().out)
    manifest = json.loads(small.manifest.to_json())
    assert {name: record[name] for name in manifest} == manifest
    assert record["fingerprint"] == small.manifest.fingerprint
    assert (record["folder"], record["sheet"]) == (str(small.folder), None)
    assert not (small.folder / "samples.png").exists()
    info_command(small.folder, as_json=True, sheet=tmp_path / "sheet.png")
    assert json.loads(capsys.readouterr().out)["sheet"] == str(tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").format == "PNG"


def cells(sheet, rows, columns):
    """The pictures of a sheet, found by their size: [row][column] of uint8 [72, 72, 3]."""
    pixels = np.asarray(Image.open(sheet).convert("RGB"))
    first = pixels.shape[1] - 16 - 10 * 76
    return [
        [pixels[60 + row * 76 : 132 + row * 76, first + column * 76 : first + column * 76 + 72] for column in columns]
        for row in rows
    ]


def test_contact_sheet_shows_ten_evenly_spaced_samples_of_each_class(small, tmp_path):
    """Train: 13 samples of class 0, 12 of class 1. 6 x 4 pixels, enlarged 12 times, fill the middle of a cell."""
    assert write_contact_sheet(small, "train", tmp_path / "sheet.png") == [0, 1]
    beton = Beton(small.path("train"))
    shown = cells(tmp_path / "sheet.png", range(2), range(10))
    for label, expected in ((0, (0, 2, 6, 8, 10, 14, 16, 18, 22, 24)), (1, (1, 3, 5, 9, 11, 13, 15, 19, 21, 23))):
        for cell, index in zip(shown[label], expected, strict=True):
            enlarged = beton.image(index).transpose(1, 2, 0).repeat(12, axis=0).repeat(12, axis=1)
            assert np.array_equal(cell[:, 12:60], enlarged)


def test_contact_sheet_of_many_classes_shows_twelve_and_marks_empty_ones_by_space(tmp_path):
    write_dataset(SyntheticImages(40, 3, classes=40, height=8, width=8), tmp_path / "many")
    dataset = open_dataset(tmp_path / "many")
    assert write_contact_sheet(dataset, "train", tmp_path / "train.png") == [
        0,
        4,
        7,
        11,
        14,
        18,
        21,
        25,
        28,
        32,
        35,
        39,
    ]
    assert len(write_contact_sheet(dataset, "test", tmp_path / "test.png")) == 12
    shown = cells(tmp_path / "test.png", (0, 1), (0,))
    assert shown[0][0].min() < 200 and shown[1][0].min() == 255


def test_contact_sheet_stretches_grey_levels_and_cuts_long_names(digits, tmp_path):
    """Digits go to 16, not to 255."""
    names = ("a class with a name much too long for the margin of the sheet", *digits.manifest.class_names[1:])
    long = Dataset(digits.folder, replace(digits.manifest, class_names=names))
    write_contact_sheet(long, "train", tmp_path / "sheet.png")
    ((cell, *_), *_) = cells(tmp_path / "sheet.png", range(1), range(1))
    assert cell.max() == 255 and cell.min() == 0
    assert Image.open(tmp_path / "sheet.png").width < 16 + 160 + 16 + 10 * 76 + 20


def test_contact_sheet_that_cannot_be_written_is_an_error_and_leaves_nothing(small, tmp_path):
    with pytest.raises(DataError, match=r"cannot be written .* --sheet"):
        write_contact_sheet(small, "train", tmp_path / "nowhere" / "sheet.png")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write_contact_sheet(small, "train", tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "small"]


def test_verify_compares_every_sample(small, capsys):
    info_command(small.folder, verify=True)
    assert "verified" in capsys.readouterr().out
    for contents, message in (("0" * 64, "checksum of its samples"), ("", "written before")):
        splits = {name: replace(record, contents=contents) for name, record in small.manifest.splits.items()}
        (small.folder / "manifest.json").write_text(replace(small.manifest, splits=splits).to_json())
        with pytest.raises(DataError, match=message):
            info_command(small.folder, verify=True)


def test_console_writes_each_source_with_its_options(tmp_path, capsys):
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            Image.new("RGB", (40, 30), (9, 9, 9)).save(tmp_path / "pictures" / split / name / "a.png")
    broken = tmp_path / "pictures" / "train" / "ant" / "b.png"
    broken.write_bytes(b"")
    options = ("--max-resolution=20", "--compress-probability=0.25", "--jpeg-quality=70", "--num-workers=2")
    command = ["data", "write", "imagenet", str(tmp_path / "pictures"), str(tmp_path / "i"), *options]
    assert main(command) == 2 and "train/ant/b.png" in capsys.readouterr().err
    assert main([*command, "--skip-unreadable"]) == 0
    assert "left out   1 unreadable: train/ant/b.png" in capsys.readouterr().out
    expected = ImageFolder(str(tmp_path / "pictures"), max_resolution=20, jpeg_share=0.25, quality=70)
    record = open_dataset(tmp_path / "i").manifest.source
    assert record == {
        "kind": "imagefolder",
        **{name: getattr(expected, name) for name in ("root", "max_resolution", "jpeg_share", "quality", "seed")},
    }
    assert main(["data", "write", "digits", str(tmp_path / "d"), "--test", "97"]) == 0
    assert open_dataset(tmp_path / "d").count("train") == 1700
    size = ("--train=9", "--test=4", "--classes=3", "--height=5", "--width=6", "--channels=4")
    assert main(["data", "write", "synthetic", str(tmp_path / "s"), *size, "--storage=raw", "--difficulty=0.1"]) == 0
    dataset = open_dataset(tmp_path / "s").require(classes=3, shape=(4, 5, 6), field="ndarray")
    assert (dataset.count("train"), dataset.count("test"), dataset.manifest.source["difficulty"]) == (9, 4, 0.1)
    capsys.readouterr()
    assert main(["data", "info", str(tmp_path / "s"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == 3


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist"])
def test_console_reads_the_downloaded_ones_from_the_folder_that_is_named(tmp_path, name, capsys):
    """A folder of which a file takes the place: refused before anything is asked of a network."""
    (tmp_path / "file").write_text("")
    assert main(["data", "write", name, str(tmp_path / "out"), "--source", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_console_says_how_it_is_used(capsys):
    assert main(["data"]) == 2 and main(["data", "--help"]) == 0 and main(["data", "read"]) == 2
    with pytest.raises(SystemExit, match="0"):
        main(["data", "write", "--help"])
    shown = capsys.readouterr().out
    for name in ("digits", "cifar10", "cifar100", "mnist", "imagenet", "synthetic", "info"):
        assert name in shown


def test_a_sheet_replaces_a_picture_and_nothing_else(small, tmp_path):
    before = (small.folder / "train.beton").read_bytes()
    for name in ("train.beton", "manifest.json"):
        with pytest.raises(DataError, match="is no PNG"):
            info_command(small.folder, sheet=small.folder / name)
    assert (small.folder / "train.beton").read_bytes() == before
    for _ in range(2):
        info_command(small.folder, sheet=tmp_path / "sheet.png")
