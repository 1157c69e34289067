"""What `python -m sparselt.reproduce SETTING --data FOLDER` refuses: data that is whole, but not the setting's."""

import numpy as np
import pytest
from PIL import Image

from sparselt.cli.reproduce import main
from sparselt.data import SyntheticImages, open_dataset, write_dataset
from sparselt.data.sources.pictures import Pictures
from sparselt.errors import DataError
from sparselt.experiments.data import titled
from sparselt.reproduce import load_setting

DIGITS = "digits_resnet8"

ARRAYS = {"train_count": 1297, "test_count": 500, "classes": 10, "height": 8, "width": 8, "channels": 1}


@pytest.mark.parametrize(
    ("setting", "changes", "words"),
    [
        ("digits_resnet8", {"height": 9}, ["image shape", "(1, 9, 8), expected (1, 8, 8)"]),
        ("digits_resnet8", {"channels": 3}, ["channels 3, expected 1", "--set channels=3"]),
        ("digits_resnet8", {"classes": 11}, ["classes 11, expected 10", "--set classes=11\n"]),
        (
            "digits_resnet8",
            {"channels": 3, "storage": "jpeg"},
            ["field rgb_image, expected ndarray", "data write pictures"],
        ),
        ("digits_resnet8", {"train_count": 1296}, ["train_count 1,296, expected 1,297", "--set train_count=1296"]),
        ("digits_resnet8", {"test_count": 501}, ["test_count 501, expected 500"]),
        ("digits_resnet8", {"classes": 3, "train_count": 60}, ["--set classes=3 train_count=60"]),
        ("imagenet_resnet50", {}, ["field ndarray, expected rgb_image"]),
        ("imagenet_resnet50", {"classes": 1000}, ["field ndarray, expected rgb_image"]),
    ],
    ids=lambda value: str(value) if isinstance(value, str | dict) else "",
)
def test_data_of_another_shape_is_refused(setting, changes, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_dataset(SyntheticImages(**{**ARRAYS, "storage": "raw", **changes}), tmp_path / "data")
    assert main([setting, "--data", "data"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(word in error for word in words), error
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_pictures_of_ones_own_run_in_a_setting_of_small_images(tmp_path, capsys, untimed):
    draws = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for name in ("cat", "cow", "dog"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                Image.fromarray(draws.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    data = tmp_path / "squares"
    write_dataset(Pictures(str(tmp_path / "pictures"), side=8, gray=True), data)
    asked = [DIGITS, "--scale", "smoke", "--experiments", "imp", "--data", str(data), "--out", str(tmp_path / "runs")]
    assert main(asked) == 2
    hint = capsys.readouterr().err.partition("--set ")[2].split()
    assert hint == ["classes=3", "train_count=24", "test_count=12"]
    assert main([*asked, "--dry-run", "--set", *hint, "batch_size=8"]) == 0
    assert "(changed: data=squares)" in " ".join(capsys.readouterr().out.split())


def test_pictures_are_cut_to_their_middle_square_and_scaled(tmp_path):
    for split in ("train", "val"):
        folder = tmp_path / split / "only"
        folder.mkdir(parents=True)
        wide = np.zeros((10, 30, 3), dtype=np.uint8)
        wide[:, 10:20, 1], wide[:, :10, 0] = 200, 255
        Image.fromarray(wide).save(folder / "wide.png")
    image, label = Pictures(str(tmp_path), side=4).samples("train")[0]
    assert (image.shape, image.dtype, label) == ((3, 4, 4), np.uint8, 0)
    assert (image[1] == 200).all() and not image[[0, 2]].any()
    assert Pictures(str(tmp_path), side=5, gray=True).samples("test")[0][0].shape == (1, 5, 5)
    with pytest.raises(DataError, match="side 0 must be at least 1"):
        Pictures(str(tmp_path), side=0)


@pytest.mark.parametrize(("classes", "named"), [(3, True), (1000, False)])
def test_a_title_of_imagenet_says_so_where_the_classes_are_not_imagenets(classes, named, tmp_path):
    counts = {"classes": classes, "train_count": 2 * classes, "test_count": classes}
    write_dataset(SyntheticImages(**counts, height=8, width=8, channels=3, storage="jpeg"), tmp_path / "own")
    usual = load_setting("imagenet_resnet50")
    for scale in ("paper", "mini"):
        setting = load_setting("imagenet_resnet50", scale)
        changed = setting.changed(**counts, batch_size=2)
        title = titled(changed, usual, open_dataset(tmp_path / "own")).title
        assert title == setting.title + " (changed: data=own)" * named
