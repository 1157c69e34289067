"""A training that stops and goes on, against one that never stopped: equal to the bit."""

import dataclasses
import errno
import hashlib
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from test_loop import BATCH, STEPS, Loader, network
from torch import nn

from sparselt import Mask, magnitude_prune
from sparselt.errors import TrainingError
from sparselt.optim import build_optimizer
from sparselt.stopping import Signals
from sparselt.training import loop
from sparselt.training.progress import Progress, spent_before
from sparselt.training.recipe import Recipe, Techniques
from sparselt.training.schedule import Schedule

PLAIN = Recipe("none", BATCH, STEPS, Schedule("step", 0.05, milestones=(30,)))
RECIPES = {
    "sgd": PLAIN,
    "without momentum": dataclasses.replace(PLAIN, momentum=0.0),
    "adam": dataclasses.replace(PLAIN, optimizer="adam", schedule=Schedule("step", 0.01)),
    "average": dataclasses.replace(PLAIN, techniques=Techniques(ema_half_life=40)),
}


class Stopped(Exception):
    """In place of the end of the process."""


class Stops(Signals):
    def end(self):
        raise Stopped


def drawing_network() -> nn.Module:
    model = network()
    model.insert(3, nn.Dropout(0.3))
    return model


CHECKPOINT = ("step-12", 12)


def run(recipe, folder=None, stop_at=None, *, make=network, usable=lambda step, made: True, checkpoint=False):
    """State of the trained network, and its measurements. Raises Stopped at a step.

    checkpoint: write the first weights at step 12 into a file that is wanted.
    """
    model = make()
    mask = magnitude_prune(model, Mask.ones_like(model), fraction=0.5)
    mask.apply_(model)
    optimizer, signals = build_optimizer(recipe, model.named_parameters(), mask), Stops()
    written = {}
    if checkpoint:

        def usable(step, made):
            return step <= CHECKPOINT[1] or CHECKPOINT[0] in made

    def on_step(step):
        if checkpoint and step == CHECKPOINT[1]:
            data = next(model.parameters()).detach().numpy().tobytes()
            (folder / CHECKPOINT[0]).write_bytes(data)
            written[CHECKPOINT[0]] = hashlib.sha256(data).hexdigest()
        if step == stop_at:
            signals.asked, signals.stop = 1, True

    progress = None if folder is None else Progress(folder, 1e9, signals, usable, written=written)
    return loop.train(
        model, optimizer, Loader(), recipe, on_step=on_step, progress=progress, seed=7
    ), model.state_dict()


def stop(recipe, folder, *steps, **options):
    """Runs and stops at one step after the other."""
    for step in steps:
        with pytest.raises(Stopped):
            run(recipe, folder, step, **options)


def assert_equal(first, second):
    assert first[0] == second[0]
    assert first[1].keys() == second[1].keys()
    assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])


@pytest.mark.parametrize("steps", [(0,), (1,), (17, 31), (38,), (STEPS - 1,)], ids=str)
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_training_goes_on_to_the_same_bits_wherever_it_stops(recipe, steps, tmp_path):
    stop(recipe, tmp_path, *steps)
    assert_equal(run(recipe, tmp_path), run(recipe))


def test_what_a_network_draws_is_the_same_after_a_stop(tmp_path):
    stop(PLAIN, tmp_path, 20, make=drawing_network)
    assert_equal(run(PLAIN, tmp_path, make=drawing_network), run(PLAIN, make=drawing_network))


def test_damaged_save_is_named_and_the_one_before_it_serves(tmp_path, capsys):
    stop(PLAIN, tmp_path, 10, 20)
    newest = max(tmp_path.glob("progress-*"))
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    steps = []
    assert_equal(run(PLAIN, tmp_path, usable=lambda step, made: steps.append(step) is None), run(PLAIN))
    said = capsys.readouterr().err
    assert steps == [10] and f"damaged-{newest.name} is damaged: the training goes on from step 10" in said


def test_a_training_whose_saves_are_all_damaged_says_that_it_begins_again(tmp_path, capsys):
    stop(PLAIN, tmp_path, 10, 20)
    for path in tmp_path.glob("progress-*"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert_equal(run(PLAIN, tmp_path), run(PLAIN))
    said = capsys.readouterr().err
    assert said.count("is damaged: the training begins again") == 2 and "goes on" not in said


def named_by_its_checksum(data: bytes) -> str:
    return f"progress-{30:012}-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"


GARBAGE, FOREIGN = b"garbage", safetensors.torch.save({"losses": torch.zeros(1), "others/weight": torch.zeros(1)})
NO_NAMES = safetensors.torch.save({"losses": torch.zeros(1)}, {"beside": "[1"})


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("progress-abc-def.safetensors", GARBAGE),
        ("progress-1", GARBAGE),
        (named_by_its_checksum(GARBAGE), GARBAGE),
        (named_by_its_checksum(FOREIGN), FOREIGN),
        (named_by_its_checksum(NO_NAMES), NO_NAMES),
        ("progress-000000000030-0123456789abcdef.safetensors", None),
    ],
    ids=["name", "short name", "garbage", "tensors of another kind", "damaged notes", "folder"],
)
@pytest.mark.parametrize("steps", [(), (10,)], ids=["alone", "beside a save"])
def test_a_strangers_file_that_is_named_like_a_save_is_set_aside(steps, name, data, tmp_path, capsys):
    stop(PLAIN, tmp_path, *steps)
    (tmp_path / name).mkdir() if data is None else (tmp_path / name).write_bytes(data)
    assert_equal(run(PLAIN, tmp_path), run(PLAIN))
    assert not (tmp_path / name).exists()
    whence = "goes on from step 10" if steps else "begins again"
    assert f"damaged-{name} is damaged: the training {whence}" in capsys.readouterr().err


@pytest.mark.parametrize("cut", [1, 300], ids=["flipped", "cut short"])
@pytest.mark.parametrize("stops", [(6, 20), (16, 20)], ids=str)
def test_a_damaged_checkpoint_beside_the_saves_is_named_and_made_again(stops, cut, tmp_path, capsys):
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "stopped"
    undisturbed.mkdir()
    folder.mkdir()
    expected = run(PLAIN, undisturbed, checkpoint=True)
    stop(PLAIN, folder, *stops, checkpoint=True)
    path = folder / CHECKPOINT[0]
    path.write_bytes(path.read_bytes()[:-cut] + b"x" * (cut == 1))
    assert_equal(run(PLAIN, folder, checkpoint=True), expected)
    assert path.read_bytes() == (undisturbed / CHECKPOINT[0]).read_bytes()
    whence = "goes on from step 6" if 6 in stops else "begins again"
    assert f"{path} is damaged: the training {whence}" in capsys.readouterr().err


def test_a_checkpoint_that_no_save_vouches_for_is_removed(tmp_path):
    stop(PLAIN, tmp_path, 10)
    (tmp_path / CHECKPOINT[0]).write_bytes(b"half")  # written after the save, by a run that was killed
    Progress(tmp_path, 1.0, Signals()).restore()
    assert [path.name[:9] for path in tmp_path.iterdir()] == ["progress-"]


def test_save_after_a_checkpoint_that_is_missing_is_not_used(tmp_path):
    stop(PLAIN, tmp_path, 10, 20)
    assert Progress(tmp_path, 1.0, Signals(), lambda step, made: step <= 15).restore().step == 10
    assert Progress(tmp_path, 1.0, Signals(), lambda step, made: step <= 5).restore() is None


def test_the_last_two_saves_are_kept(tmp_path):
    stop(PLAIN, tmp_path, 10, 20, 30)
    assert sorted(int(path.name.split("-")[1]) for path in tmp_path.iterdir()) == [20, 30]
    assert 0 < spent_before(tmp_path) < 60


def test_a_training_whose_saves_find_no_room_trains_on_with_the_last_good_one(tmp_path, capsys, monkeypatch):
    write, full = Path.write_bytes, False

    def write_half(path, data):
        write(path, data[: len(data) // 2] if full else data)
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_half)
    model = network()
    mask = magnitude_prune(model, Mask.ones_like(model), fraction=0.5)
    mask.apply_(model)
    optimizer, signals = build_optimizer(PLAIN, model.named_parameters(), mask), Signals()
    progress = Progress(tmp_path, 1e9, signals)

    def on_step(step):
        nonlocal full
        signals.asked, full = step // 5, step >= 15

    result = loop.train(model, optimizer, Loader(), PLAIN, on_step=on_step, progress=progress, seed=7)
    assert_equal((result, model.state_dict()), run(PLAIN))
    assert sorted(path.name[:21] for path in tmp_path.iterdir()) == ["progress-000000000005", "progress-000000000010"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"cannot be saved in {tmp_path} (No space left on device)" in said
    assert "goes on from step 10; make room" in said


def test_a_training_that_diverges_ends_at_its_next_save_and_keeps_the_last_good_one(tmp_path):
    stop(PLAIN, tmp_path, 10)
    (good,) = tmp_path.iterdir()
    model = network()
    optimizer, signals = build_optimizer(PLAIN, model.named_parameters(), None), Stops()

    def on_step(step):
        if step == 20:
            model[0].weight.data[0] = float("inf")
        signals.asked = step // 15

    progress = Progress(tmp_path, 1e9, signals)
    with pytest.raises(TrainingError, match=rf"is not finite at step 30; .* last save stays in {tmp_path}"):
        loop.train(model, optimizer, Loader(), PLAIN, on_step=on_step, progress=progress, seed=7)
    saved = Progress(tmp_path, 1.0, Signals()).restore()
    assert saved.step == 15 and all(tensor.isfinite().all() for tensor in saved.model.values())
    assert good.exists()
