"""What `python -m sparselt.reproduce SETTING --data FOLDER` refuses: data that is whole, but not the setting's."""

import pytest

from sparselt.cli.reproduce import main
from sparselt.data import SyntheticImages, write_dataset

ARRAYS = {"train_count": 1297, "test_count": 500, "classes": 10, "height": 8, "width": 8, "channels": 1}


@pytest.mark.parametrize(
    ("setting", "changes", "words"),
    [
        ("digits_resnet8", {"height": 9}, ["image shape", "(1, 9, 8), expected (1, 8, 8)"]),
        ("digits_resnet8", {"channels": 3}, ["(3, 8, 8), expected (1, 8, 8)"]),
        ("digits_resnet8", {"classes": 11}, ["classes 11, expected 10"]),
        ("digits_resnet8", {"channels": 3, "storage": "jpeg"}, ["field rgb_image, expected ndarray"]),
        ("digits_resnet8", {"train_count": 1296}, ["1,296 train images", "1,297", "--set train_count=1296"]),
        ("digits_resnet8", {"test_count": 501}, ["501 test images", "500"]),
        ("imagenet_resnet50", {}, ["classes 10, expected 1000"]),
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
