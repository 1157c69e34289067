"""Stages that were stopped in the middle, and whose files were changed before they went on."""

import shutil

import pytest

from sparselt.runs import worker
from sparselt.runs.store import Store
from sparselt.runs.worker import run_cohort, run_stage
from sparselt.stopping import Signals


class Stopped(BaseException):
    """In place of the end of the process."""


class StopsAfter(Signals):
    """Stops the process after so many saves."""

    def __init__(self, saves):
        super().__init__()
        self.left = saves

    def saved(self):
        self.left -= 1
        if not self.left:
            raise Stopped


@pytest.mark.parametrize("together", [False, True], ids=["alone", "in a cohort"])
def test_a_checkpoint_that_was_damaged_while_its_training_stood_still_is_named_and_made_again(
    bench, tmp_path, monkeypatch, capsys, together
):
    lab = bench.lab(steps=25 + together)  # which no other test has made
    stage = lab.checkpoint(0, 6).stage.want("final.safetensors")
    bench.run(*(file.stage for file in stage.inputs.values()))
    undisturbed = Store(tmp_path / "undisturbed")
    for file in stage.inputs.values():
        shutil.copytree(bench.store.folder(file.stage), undisturbed.folder(file.stage), dirs_exist_ok=True)

    def run(store):
        return run_cohort([stage], str(store.root))[0] if together else run_stage(stage, str(store.root))

    monkeypatch.setattr(worker, "_save_seconds", 1e-9)
    monkeypatch.setattr(worker, "_signals", StopsAfter(10))
    with pytest.raises(Stopped):
        run(bench.store)
    (path,) = bench.store.root.glob("unfinished/train-*/work-*/step-6.safetensors")
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(worker, "_signals", Signals())
    for store in (bench.store, undisturbed):
        outcome = run(store)
        assert not outcome.error and not outcome.by_another, outcome
    assert "step-6.safetensors is damaged: the training begins again" in capsys.readouterr().err
    files = bench.store.record(stage)["files"]
    assert files.keys() == {"step-6.safetensors", "final.safetensors", "measurements.json"}
    assert files == undisturbed.record(stage)["files"]
