import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sparselt.errors import StoreError
from sparselt.runs.inventory import Inventory
from sparselt.runs.store import Store, is_intact
from sparselt.runs.versions import FORMAT
from sparselt.stages.identity import not_in_key
from sparselt.stages.stage import Stage, StageFile, Task


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def finish(store: Store, stage: Stage, **files: str) -> None:
    folder = store.begin(stage)
    for name, text in files.items():
        (folder / name).write_text(text)
    store.commit(stage, folder, seconds=1.5, work=3, finished="now")
    store.discard(folder)


@dataclass(frozen=True, kw_only=True, eq=False)
class Halve(Stage):
    """A stage with a value, two inputs, and a field that decides nothing."""

    __module__ = "sparselt.tests"  # its keys are those of a stage of the package: its own file does not count
    kind = "prune"
    title = "halve"
    unit = "masks"

    fraction: float
    mask: StageFile | None = None
    weights: StageFile | None = None
    folder: str = not_in_key("")


@dataclass(frozen=True, kw_only=True, eq=False)
class Draw(Halve):
    """The same of another kind."""

    kind = "random_mask"


STAGE = Halve(fraction=0.2, outputs=frozenset({"a"}))


def test_identity_is_kind_spec_and_needs_and_nothing_else():
    same = Halve(fraction=0.2, outputs=frozenset({"b"}), label="other", work=7, folder="x")
    assert STAGE.key == same.key
    others = [
        Draw(fraction=0.2),
        Halve(fraction=0.3),
        Halve(fraction=0.2, mask=STAGE.file("a")),
        Halve(fraction=0.2, mask=STAGE.file("b")),
        Halve(fraction=0.2, weights=STAGE.file("a")),
    ]
    assert len({STAGE.key, *(stage.key for stage in others)}) == 6


def test_keys_are_the_same_in_every_process_and_version():
    """A changed key orphans every stored result: raise a kind's version instead, and on purpose."""
    assert STAGE.key[:16] == "d711901b28cdf300"


def test_a_stage_is_done_only_with_every_wanted_output(store):
    assert not store.has(STAGE)
    finish(store, STAGE, a="1")
    assert store.has(STAGE) and not store.has(STAGE.want("b"))


def test_outputs_of_a_second_run_join_those_of_the_first(store):
    finish(store, STAGE, a="1")
    finish(store, STAGE.want("b"), a="1", b="2")
    assert store.has(STAGE.want("b"))
    finish(store, STAGE, a="1")
    assert store.has(STAGE.want("a", "b")) and (store.folder(STAGE) / "b").read_text() == "2"
    assert not list((store.root / "unfinished").iterdir())


def test_a_truncated_result_counts_as_missing(store):
    finish(store, STAGE, a="content")
    os.truncate(store.folder(STAGE) / "a", 2)
    assert not store.has(STAGE)


def test_a_stage_that_lacks_an_output_is_not_committed(store):
    folder = store.begin(STAGE)
    with pytest.raises(StoreError, match="did not make a"):
        store.commit(STAGE, folder, seconds=1, work=1, finished="")
    assert not store.folder(STAGE).exists()


def test_a_stage_whose_files_do_not_read_back_as_written_is_not_committed_and_keeps_its_progress(store):
    folder = store.begin(STAGE)
    task = Task({}, STAGE.outputs, folder, print)
    task.write_bytes("a", b"12")
    (folder / "progress-1").write_text("")
    (folder / "a").write_text("1")
    told = {"seconds": 1, "work": 1, "finished": "", "written": task.written}
    with pytest.raises(StoreError, match=r"/a does not read back as it was written"):
        store.commit(STAGE, folder, **told)
    assert not store.folder(STAGE).exists() and store.started(STAGE)
    task.write_bytes("a", b"12")
    store.commit(STAGE, folder, **told)
    assert store.has(STAGE) and {path.name for path in store.folder(STAGE).iterdir()} == {"a", "stage.json"}


def test_a_folder_that_was_set_aside_is_no_file_of_the_stage(store):
    folder = store.begin(STAGE)
    (folder / "a").write_text("1")
    (folder / "damaged-progress-1").mkdir()
    store.commit(STAGE, folder, seconds=1, work=1, finished="")
    assert store.has(STAGE) and {path.name for path in store.folder(STAGE).iterdir()} == {"a", "stage.json"}


def test_what_a_killed_run_left_is_swept_and_never_counts(store):
    folder = store.begin(STAGE)
    (folder / "a").write_text("half")
    assert not store.has(STAGE)
    store.sweep()
    assert folder.exists(), "this process is alive and may still be at work"
    assert Store(store.root).begin(STAGE) is None and store.taken(STAGE)
    store.discard(folder)
    code = (
        "import os; from test_store import STAGE; from sparselt.runs.store import Store\n"
        f"(Store({str(store.root)!r}).begin(STAGE) / 'a').write_text('half'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent)
    unfinished = store.root / "unfinished"
    assert len(list(unfinished.rglob("a"))) == 1
    store.sweep()
    assert not list(unfinished.iterdir())


def test_the_progress_of_a_killed_run_is_not_swept(store):
    code = (
        "import os; from test_store import STAGE; from sparselt.runs.store import Store\n"
        f"(Store({str(store.root)!r}).begin(STAGE) / 'progress-1').write_text('saved'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent)
    store.sweep()
    assert store.started(STAGE)
    assert (store.begin(STAGE) / "progress-1").read_text() == "saved"


def test_a_stage_goes_on_from_progress_and_from_nothing_else_that_a_stopped_run_left(store):
    folder = store.begin(STAGE)
    (folder / "a").write_text("half")
    (folder / "progress-1").write_text("")
    store.discard(folder)
    assert store.started(STAGE) and not store.taken(STAGE)
    store.sweep()
    folder = store.begin(STAGE)
    assert {path.name for path in folder.iterdir()} == {"a", "progress-1"}
    (folder / "progress-1").unlink()
    store._held.pop(folder).leave(keep=True)
    assert not list(store.begin(STAGE).iterdir())


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"files": {"a": 1}}'])
def test_a_stage_with_an_unreadable_record_is_made_anew(store, text):
    finish(store, STAGE, a="1")
    (store.folder(STAGE) / "stage.json").write_text(text)
    assert not store.has(STAGE)
    finish(store, STAGE, a="1")
    assert store.has(STAGE)


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_result_that_was_changed_is_noticed_and_made_anew(store, size):
    finish(store, STAGE, a="x" * size)
    path = store.verify(STAGE.file("a"))
    path.write_text("x" * (size - 1) + "y")
    assert store.has(STAGE) == (size > 1 << 20), "large files are compared when they are read"
    with pytest.raises(StoreError, match="was damaged"):
        store.verify(STAGE.file("a"))
    assert not store.has(STAGE)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "file" / "store")


def test_a_store_of_a_newer_format_is_refused_with_both_versions(store):
    note = store.root / "format.json"
    assert json.loads(note.read_text())["format"] == FORMAT
    Store(store.root)
    note.write_text(json.dumps({"format": FORMAT + 1, "sparselt": "99.0"}))
    both = rf"has format {FORMAT + 1}, of sparselt 99.0; this is sparselt .*, which reads format {FORMAT}"
    for opened in (lambda: Store(store.root), lambda: Store(store.root, writable=False)):
        with pytest.raises(StoreError, match=both):
            opened()
    with pytest.raises(StoreError, match=both):
        Inventory(store.root.parent)
    note.write_text("{")
    with pytest.raises(StoreError, match="does not say the format of the store; delete it if no newer"):
        Store(store.root)


def test_a_store_of_before_the_format_was_noted_is_read_and_noted(store):
    finish(store, STAGE, a="1")
    (store.root / "format.json").unlink()
    assert Store(store.root, writable=False).has(STAGE) and not (store.root / "format.json").exists()
    assert Store(store.root).has(STAGE) and (store.root / "format.json").exists()


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_that_leads_out_of_the_store_is_damage_and_is_replaced(store, what, tmp_path):
    finish(store, STAGE, a="1")
    inside = store.folder(STAGE) / "a" if what == "file" else store.folder(STAGE)
    outside = tmp_path / "outside"
    inside.rename(outside)
    inside.symlink_to(outside)
    before = outside.stat().st_mtime_ns
    assert not store.has(STAGE) and not is_intact(store.folder(STAGE) / "a")
    with pytest.raises(StoreError, match="was damaged"):
        store.verify(STAGE.file("a"))
    finish(store, STAGE, a="1")
    assert store.has(STAGE) and not inside.is_symlink()
    assert outside.exists() and outside.stat().st_mtime_ns == before


def test_looking_writes_nothing(tmp_path):
    assert not Store(tmp_path / "none", writable=False).has(STAGE)
    assert not (tmp_path / "none").exists()


def test_the_record_tells_what_was_done_with_which_versions(store):
    finish(store, STAGE, a="1")
    record = json.loads((store.folder(STAGE) / "stage.json").read_text())
    assert record["spec"] == {"fraction": 0.2} and record["files"]["a"]["bytes"] == 1 and "torch" in record["versions"]


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "null", "{}", "3", "[" * 100_000, "\x00"),
        '{"files": 3, "seconds": 1, "steps": 1, "finished": "", "spec": {}}',
        '{"files": [], "seconds": 1, "steps": 1, "finished": "", "spec": {}}',
        '{"files": {"a": 1}, "seconds": 1, "steps": 1, "finished": "", "spec": {}}',
        '{"files": {}, "seconds": 1, "steps": 1, "finished": "", "spec": 4}',
    ],
)
def test_a_note_of_another_shape_is_damage_and_the_stage_is_made_anew(store, text):
    finish(store, STAGE, a="1")
    assert not store.damaged(STAGE)
    (store.folder(STAGE) / "stage.json").write_text(text)
    assert store.record(STAGE) == {} and not store.has(STAGE) and store.damaged(STAGE)
    finish(store, STAGE, a="1")
    assert store.has(STAGE) and not store.damaged(STAGE)


@pytest.mark.parametrize("place", ["prune", "prune/stage", "prune/stage/a", "prune/stage/stage.json"])
def test_what_is_of_the_wrong_type_is_replaced(store, place):
    finish(store, STAGE, a="1")
    path = store.root / place.replace("stage", store.folder(STAGE).name, 1)
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("a file where a folder was")
    else:
        path.unlink()
        path.mkdir()
        (path / "inside").write_text("a folder where a file was")
    assert not store.has(STAGE)
    finish(store, STAGE, a="1")
    assert store.has(STAGE) and (store.folder(STAGE) / "a").read_text() == "1"
