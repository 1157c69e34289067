import json
import shutil

import pytest

from sparselt.data import Digits, open_dataset, write_dataset
from sparselt.data.manifest import fingerprint
from sparselt.errors import DataError


@pytest.fixture
def copied(digits, tmp_path):
    return shutil.copytree(digits.folder, tmp_path / "copy")


def refused(folder, *parts):
    with pytest.raises(DataError) as caught:
        open_dataset(folder)
    for part in parts:
        assert part in str(caught.value)


def test_untouched_copy_opens(copied, digits):
    dataset = open_dataset(copied)
    assert dataset.manifest == digits.manifest
    assert (dataset.count("train"), dataset.count("test"), dataset.classes, dataset.synthetic) == (1297, 500, 10, False)


def test_missing_folder_names_the_layout_and_the_command(tmp_path):
    refused(tmp_path / "nowhere", "nowhere", "manifest.json", "train.beton", "sparselt data write")


def test_empty_folder_and_unfinished_write_are_told_apart(copied, tmp_path):
    refused(tmp_path, "nothing of it is there", "sparselt data write")
    (copied / "manifest.json").unlink()
    refused(copied, "found test.beton, train.beton", "not finish")


def test_truncated_beton(copied):
    beton = copied / "train.beton"
    size = beton.stat().st_size
    with open(beton, "r+b") as file:
        file.truncate(size - 1)
    refused(copied, "train.beton is truncated", f"{size - 1:,}", f"{size:,}")


@pytest.mark.parametrize("contents", [b"", b"PK\x03\x04" * 1000])
def test_file_that_is_no_beton(copied, contents):
    (copied / "test.beton").write_bytes(contents)
    refused(copied, "test.beton", "not a file of FFCV")


def test_one_changed_byte(copied):
    with open(copied / "train.beton", "r+b") as file:
        file.seek(3_000_000)
        file.write(b"\x07")
    refused(copied, "train.beton has changed")


def test_beton_of_another_data_set(copied, tmp_path):
    for source, message in (
        (Digits(split_seed=1), "another data set"),
        (Digits(test_count=400), "holds 400 samples, expected 500"),
    ):
        other = tmp_path / str(source)
        write_dataset(source, other)
        shutil.copy(other / "test.beton", copied)
        refused(copied, "test.beton", message)


def test_missing_beton(copied):
    (copied / "test.beton").unlink()
    refused(copied, "test.beton is missing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: {**record, "format_version": 99}, "format version 99"),
        (lambda record: {"format_version": 1}, "is not a manifest"),
        (lambda record: [], "is not a manifest"),
        (lambda record: {**record, "splits": {}}, "names the splits"),
        (lambda record: {**record, "surprise": 1}, "surprise"),
    ],
)
def test_manifest_that_this_version_did_not_write(copied, change, message):
    path = copied / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    refused(copied, "manifest.json", message)


def test_manifest_from_before_pictures_could_be_skipped_opens(copied, digits):
    path = copied / "manifest.json"
    record = json.loads(path.read_text())
    del record["normalization_from"]
    for split in record["splits"].values():
        del split["skipped"], split["contents"]
    path.write_text(json.dumps(record))
    dataset = open_dataset(copied)
    assert dataset.manifest.fingerprint == digits.manifest.fingerprint
    assert dataset.record("train").skipped == ()


def test_manifest_that_is_no_json(copied):
    (copied / "manifest.json").write_text("{")
    refused(copied, "is not a manifest")


def test_manifest_cannot_point_outside_its_folder(copied):
    path = copied / "manifest.json"
    path.write_text(path.read_text().replace('"test.beton"', '"../copy/test.beton"'))
    refused(copied, "is missing")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"classes": 1000}, "classes 10, expected 1000"),
        ({"shape": (3, 32, 32)}, r"\(1, 8, 8\), expected \(3, 32, 32\)"),
        ({"field": "rgb_image"}, "ndarray, expected rgb_image"),
    ],
)
def test_data_set_that_a_setting_cannot_use(digits, wanted, message):
    assert digits.require(classes=10, shape=(1, 8, 8), field="ndarray") is digits
    with pytest.raises(DataError, match=message):
        digits.require(**wanted)


def test_fingerprint_of_a_large_file_sees_size_start_end_and_its_blocks(tmp_path):
    path, size = tmp_path / "large", 200 * 2**20
    with open(path, "wb") as file:
        file.truncate(size)
    seen = {fingerprint(path)}
    for place in (0, size - 1, (size - 2**20) * 31 // 63 + 5):
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(b"\x01")
        seen.add(fingerprint(path))
    with open(path, "r+b") as file:
        file.truncate(size - 2**12)
    seen.add(fingerprint(path))
    assert len(seen) == 5


def test_unknown_split_is_refused(digits, resident):
    for data in (digits, resident):
        with pytest.raises(DataError, match="no split 'val': choose one of train, test"):
            data.count("val")
