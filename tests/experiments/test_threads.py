"""Threads of a training: given, or from the plan's width and the cores."""

import dataclasses

import pytest

from sparselt.cli.main import main
from sparselt.errors import SettingError
from sparselt.experiments import threads
from sparselt.experiments.where import Where
from sparselt.reproduce import load_setting
from sparselt.runs.plan import Plan

CHAIN = ["cifar10_resnet20", "--scale", "smoke", "--experiments", "imp", "--replicates", "1", "--dry-run"]
CHAIN += ["--set", "rewind_steps=0", "levels=2", "control_levels=", "variants=", "batch_size=128"]


def test_width_is_the_number_of_trainings_that_can_be_made_at_a_time(bench):
    lab = bench.lab()
    chain = [lab.ticket(0, 0, 2), lab.ticket(0, 6, 2)]
    assert Plan(chain[:1]).width() == 1
    assert Plan(chain).width() == 2
    assert Plan([*chain, lab.ticket(1, 0, 1), lab.random_control(0, 6, 2)]).width() == 3
    assert Plan([]).width() == 1


@pytest.mark.parametrize(
    ("cores", "width", "batch", "side", "ranks", "expected"),
    [
        (2, 1, 128, 32, 1, 2),
        (16, 3, 512, 32, 1, 5),
        (16, 3, 512, 32, 2, 2),
        (16, 20, 128, 32, 1, 1),
        (16, 1, 64, 8, 1, 1),
        (16, 1, 128, 32, 1, 2),
        (1, 1, 128, 224, 1, 1),
    ],
)
def test_a_narrow_plan_gets_more_threads(monkeypatch, cores, width, batch, side, ranks, expected):
    monkeypatch.setattr(threads, "cores", lambda: cores)
    setting = load_setting("cifar10_resnet20", "smoke")
    setting = dataclasses.replace(setting, batch_size=batch, train_size=side, ranks=ranks)

    class Wide:
        def width(self) -> int:
            return width

    assert threads.threads_for(setting, Wide()) == expected


def test_only_a_run_on_this_cpu_that_was_told_nothing_may_choose():
    setting = load_setting("cifar10_resnet20", "smoke")
    assert threads.may_widen(setting, Where())
    assert not threads.may_widen(setting, Where(threads=1))
    assert not threads.may_widen(dataclasses.replace(setting, threads=3), Where())
    assert not threads.may_widen(setting, Where(device="cuda"))
    assert not threads.may_widen(setting, Where(executor="ray"))


@pytest.mark.parametrize("given", [0, -1, 10_000])
def test_more_threads_than_cores_are_refused(given):
    with pytest.raises(SettingError, match=f"--threads is {given}; expected 1 to"):
        threads.check_threads(given)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "Each training has 2 threads, because the plan makes 1 at a time"),
        (["--threads", "1"], ""),
        (["--threads", "2"], ""),
        (["--replicates", "2"], ""),
        (["threads=2"], ""),
    ],
)
def test_the_command_says_what_it_chose(capsys, tmp_path, monkeypatch, untimed, more, said):
    monkeypatch.setattr(threads, "cores", lambda: 2)
    assert main(["reproduce", *CHAIN, *more, "--out", str(tmp_path / "runs")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert said in printed and ("Each training has" in printed) == bool(said)
    assert not list(tmp_path.iterdir())


def test_threads_are_said_once(capsys):
    assert main(["reproduce", *CHAIN, "threads=2", "--threads", "2"]) == 2
    assert "threads is given twice" in capsys.readouterr().err
