import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sparselt.data import Beton, Digits, ImageFolder, evaluation_record, open_dataset, write_dataset
from sparselt.data.manifest import Manifest, contents
from sparselt.errors import DataError

THREE = ["manifest.json", "test.beton", "train.beton"]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_manifest_survives_json(digits):
    manifest = digits.manifest
    assert Manifest.from_json(manifest.to_json(), "here") == manifest
    assert manifest.splits["train"].shape == (1, 8, 8)
    assert manifest.source == {"kind": "digits", "test_count": 500, "split_seed": 0}


def test_equal_sources_give_equal_bytes(digits, tmp_path):
    assert write_dataset(Digits(), tmp_path / "again").fingerprint == digits.manifest.fingerprint
    assert write_dataset(Digits(split_seed=1), tmp_path / "other").fingerprint != digits.manifest.fingerprint


def test_nothing_but_the_three_files_is_left(digits):
    assert names_in(digits.folder) == THREE


def test_second_data_set_in_one_folder_is_refused(digits):
    before = digits.path("train").read_bytes()
    with pytest.raises(DataError, match="already holds a data set"):
        write_dataset(Digits(split_seed=1), digits.folder)
    assert digits.path("train").read_bytes() == before
    assert names_in(digits.folder) == THREE


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
    beton, samples = Beton(tmp_path / "out" / "train.beton"), ImageFolder(str(pictures)).samples("train")
    assert beton.labels.tolist() == [0] * 4 + [1] * 4
    assert all(np.array_equal(beton.image(index), samples[index][0]) for index in range(8))


def test_about_the_asked_share_of_pictures_is_compressed(tmp_path):
    from sparselt.data.encoding import _compressed

    share = _compressed(ImageFolder("x", jpeg_share=0.3), 4000)
    assert abs(share.mean() - 0.3) < 0.03
    assert np.array_equal(share[:50], _compressed(ImageFolder("x", jpeg_share=0.3), 50))


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_pictures_are_left_out_counted_and_named_where_that_is_asked(tmp_path, workers):
    """Seventy pictures: more than one chunk for each process."""
    root, broken = tmp_path / "pictures", [3, 40, 69]
    for split, count in (("train", 70), ("val", 1)):
        (root / split / "ant").mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (4, 4), (index, 2 * index, 0)).save(root / split / "ant" / f"{index:02}.png")
    for index, damaged in zip(broken, (b"", b"no picture", None), strict=True):
        path = root / "train" / "ant" / f"{index:02}.png"
        path.write_bytes(damaged if damaged is not None else path.read_bytes()[:45])
    manifest = write_dataset(
        ImageFolder(str(root), jpeg_share=0.0), tmp_path / "out", workers=workers, skip_unreadable=True
    )
    assert manifest.splits["train"].skipped == ("train/ant/03.png", "train/ant/40.png", "train/ant/69.png")
    assert (manifest.splits["train"].count, manifest.splits["test"].skipped) == (67, ())
    assert "3 unreadable pictures were left out" in manifest.description
    assert open_dataset(tmp_path / "out").manifest == manifest
    beton = Beton(tmp_path / "out" / "train.beton")
    assert [int(beton.image(index)[0, 0, 0]) for index in range(67)] == [i for i in range(70) if i not in broken]


def test_changed_sample_of_a_large_file_is_found_by_comparing_all_of_them(digits, tmp_path):
    """What the fingerprint of a file above 64 MiB does not see; here the manifest is made to agree with the change."""
    beton = shutil.copy(digits.path("test"), tmp_path)
    assert contents(beton) == digits.record("test").contents
    with open(beton, "r+b") as file:
        file.seek(2**21 + 64 * 400 + 33)
        file.write(b"\x11")
    assert contents(beton) != digits.record("test").contents


def test_samples_come_in_the_order_of_torchvisions_reader(pictures):
    from torchvision.datasets import ImageFolder as Reader

    (pictures / "train" / "ant" / "deeper").mkdir()
    for name in ("0.png", "z.png"):
        shutil.copy(pictures / "train" / "ant" / "1.png", pictures / "train" / "ant" / "deeper" / name)
    shutil.copy(pictures / "train" / "ant" / "1.png", pictures / "train" / "ant" / "z.PNG")
    (pictures / "train" / "ant" / "notes.txt").write_text("no picture")
    samples = ImageFolder(str(pictures)).samples("train")
    assert list(zip(samples.paths, samples.labels, strict=True)) == Reader(str(pictures / "train")).samples


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


@pytest.mark.parametrize("workers", [1, 2])
def test_ffcv_is_not_needed_to_write(pictures, digits, tmp_path, monkeypatch, workers):
    with_it = write_dataset(ImageFolder(str(pictures), max_resolution=25), tmp_path / "with")
    monkeypatch.setitem(sys.modules, "ffcv", None)  # as Python marks what cannot be imported
    without = write_dataset(ImageFolder(str(pictures), max_resolution=25), tmp_path / "without", workers=workers)
    assert without == with_it
    assert write_dataset(Digits(), tmp_path / "digits").fingerprint == digits.manifest.fingerprint


def test_without_opencv_pillow_reduces_and_compresses_and_the_manifest_says_so(tmp_path, monkeypatch):
    """A smooth picture: of noise, two ways to reduce it have little in common."""
    root = tmp_path / "pictures"
    rows, columns = np.mgrid[0:90, 0:120]
    smooth = np.stack([rows, columns, 100 + np.sin(rows / 9) * 50], axis=2).astype(np.uint8)
    for split in ("train", "val"):
        (root / split / "ant").mkdir(parents=True)
        Image.fromarray(smooth).save(root / split / "ant" / "a.png")
    source = ImageFolder(str(root), max_resolution=50, jpeg_share=1.0)
    opencv = write_dataset(source, tmp_path / "opencv")
    monkeypatch.setitem(sys.modules, "cv2", None)
    pillow = write_dataset(source, tmp_path / "pillow")
    assert ("opencv" in opencv.versions, "opencv" in pillow.versions) == (True, False)
    found, expected = (Beton(tmp_path / name / "train.beton").image(0).astype(int) for name in ("pillow", "opencv"))
    assert found.shape == expected.shape == (37, 50, 3)
    assert np.abs(found - expected).mean() < 2


def test_evaluation_record_says_how_test_images_were_stored_and_are_cropped(pictures, digits, tmp_path):
    taken = evaluation_record(digits.manifest)
    assert (taken["count"], taken["crop"], taken["resize"]) == (500, "none", "none, stored as (1, 8, 8)")
    assert taken["scale"] == 16 and taken["stored"] == {}
    break_one = pictures / "val" / "ant" / "0.png"
    break_one.write_bytes(b"")
    source = ImageFolder(str(pictures), max_resolution=25, jpeg_share=0.5, quality=80)
    manifest = write_dataset(source, tmp_path / "out", skip_unreadable=True)
    cropped = evaluation_record(manifest, 224, 224 / 256)
    assert (cropped["count"], cropped["skipped"]) == (3, 1)
    assert "224 x 224 of a shorter side of 256" in cropped["crop"] and cropped["resize"] == "to 224 x 224 pixels"
    assert "bilinear" in cropped["interpolation"] and cropped["decoded_by"] == "ffcv"
    by_area = evaluation_record(manifest, 224, 224 / 256, "area")
    assert "0.875 of the shorter side" in by_area["crop"] and "INTER_AREA" in by_area["interpolation"]
    assert cropped["stored"] == {"max_resolution": 25, "jpeg_share": 0.5, "quality": 80}
    assert "opencv" in cropped["stored_by"]
    assert json.loads(json.dumps(cropped)) == cropped
