"""Every write is whole or leaves nothing, and an error names the file, the reason and what to do."""

import contextlib
import json
import os

import pytest

from sparselt.errors import DataError, StoreError
from sparselt.files import holds_progress, move_folder, names_in, replacing, write_bytes, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    write_text(tmp_path / "a.txt", "größer\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "größer\r\n".encode()
    write_json(tmp_path / "a.txt", {"b": "ä", "a": [1]})
    assert json.loads((tmp_path / "a.txt").read_text()) == {"b": "ä", "a": [1]}
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError, OSError(28, "No space left on device")])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    write_bytes(tmp_path / "a", b"old")
    with (
        pytest.raises(type(failure) if isinstance(failure, OSError) else failure),
        replacing(tmp_path / "a") as temporary,
    ):
        temporary.write_bytes(b"ne")
        raise failure
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_of_several_files_none_is_moved_before_all_are_written(tmp_path):
    with pytest.raises(ValueError, match="second"), contextlib.ExitStack() as stack:
        for name in ("first", "second"):
            stack.enter_context(replacing(tmp_path / name)).write_bytes(b"1")
        raise ValueError("second")
    assert names(tmp_path) == []


def test_an_error_names_the_file_the_reason_and_the_remedy(tmp_path):
    with pytest.raises(StoreError, match=r"absent/a cannot be written: No such file or directory$"):
        write_bytes(tmp_path / "absent" / "a", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"^sheet x cannot be written \(Is a directory\); name another file$"):
        write_bytes(tmp_path / "folder", b"", error=DataError, what="sheet x", advice="name another file")
    assert names(tmp_path) == ["folder"]


def test_a_mode_of_a_new_file_is_that_of_any_other(tmp_path):
    write_bytes(tmp_path / "atomic", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert os.stat(tmp_path / "atomic").st_mode == os.stat(tmp_path / "plain").st_mode


def filled(folder, **files):
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_a_folder_is_moved_in_one_step_or_into_one_that_is_there(tmp_path):
    move_folder(filled(tmp_path / "made", a="1", done="1"), tmp_path / "deep" / "out", "done")
    assert names(tmp_path / "deep" / "out") == ["a", "done"]
    (tmp_path / "deep" / "out" / "b").mkdir()
    (tmp_path / "deep" / "out" / "b" / "stray").write_text("")
    move_folder(filled(tmp_path / "made", b="2", done="2"), tmp_path / "deep" / "out", "done")
    assert {path.name: path.read_text() for path in (tmp_path / "deep" / "out").iterdir()} == {
        **{"a": "1", "b": "2", "done": "2"}
    }
    assert names(tmp_path) == ["deep"]


def test_the_file_that_marks_a_folder_as_done_is_moved_last(tmp_path, monkeypatch):
    filled(tmp_path / "out", kept="")
    moved = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (moved.append(new.name), replace(old, new)))
    move_folder(filled(tmp_path / "made", a="", done="", z=""), tmp_path / "out", "done")
    assert moved[-1] == "done" and set(moved) == {"a", "done", "z"}


def test_a_file_where_the_folder_belongs_gives_way(tmp_path):
    (tmp_path / "kind").write_text("in the way")
    move_folder(filled(tmp_path / "made", a="1"), tmp_path / "kind" / "key")
    assert (tmp_path / "kind" / "key" / "a").read_text() == "1"


def test_a_folder_that_another_process_has_removed_is_empty(tmp_path):
    (tmp_path / "progress-1").touch()
    assert names_in(tmp_path) == ["progress-1"] and holds_progress(tmp_path)
    for gone in (tmp_path / "gone", tmp_path / "progress-1"):
        assert names_in(gone) == [] and not holds_progress(gone)
