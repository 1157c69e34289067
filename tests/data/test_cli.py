import pytest

from sparselt.data import SyntheticImages
from sparselt.data.cli import info_command, write_command
from sparselt.errors import DataError


def test_write_command_writes_and_prints_what_info_prints(tmp_path, capsys):
    write_command(SyntheticImages(5, 3, classes=2, height=6, width=4, storage="raw"), tmp_path / "out")
    written = capsys.readouterr().out
    assert "Synthetic images, not real ones" in written
    assert "5 images, 3 x 6 x 4" in written
    for place in (tmp_path / "out", tmp_path / "out" / "train.beton"):
        info_command(place)
        assert capsys.readouterr().out.replace(str(place), "") == written.replace(str(place), "")


def test_info_command_refuses_a_folder_without_data(tmp_path):
    with pytest.raises(DataError, match="sparselt data write"):
        info_command(tmp_path)
