"""Run folders with invented numbers, in the shape of the digits miniature; no training stands behind any of them."""

import csv
import json
import random
from types import SimpleNamespace

import pytest

from sparselt.experiments import EXPERIMENTS
from sparselt.experiments.sections import sections_of
from sparselt.report import write_report
from sparselt.report.results import write_results

LEVELS = 12
REWIND_STEPS = (0, 60, 200)


def invented_rows(
    rewind_steps=REWIND_STEPS,
    levels=LEVELS,
    replicates=4,
    connectivity=True,
    controls=True,
    dense=0.012,
    setting="invented",
):
    """Rows as a run leaves them: at the first rewind step barriers of tens of points, at the later ones nearly none."""
    rng = random.Random(0)
    base = {"setting": setting, "scale": "paper"}

    def errors(variant, replicate, rewind_step, level, error):
        place = base | {
            "experiment": "imp",
            "variant": variant,
            "replicate": replicate,
            "rewind_step": rewind_step,
            "level": level,
            "density": 0.8**level,
        }
        yield place | {"metric": "test_error", "value": error}
        yield place | {"metric": "test_loss", "value": 4 * error}
        yield place | {"metric": "train_loss", "value": error / 2}

    for replicate in range(replicates):
        error = _examples(rng.gauss(dense, 0.15 * dense))
        yield from errors("dense", replicate, None, 0, error)
        solutions = {(0, step): error for step in rewind_steps}
        for place, step in enumerate(rewind_steps):
            late = place > 0
            for level in range(1, levels + 1):
                rise = 0.25 * max(0, level - 8 - place) ** 2 if late else 0.9 + 0.35 * level
                error = _examples(dense * (1 + (0.1 if late else 1) * rise) + rng.gauss(0, 0.15 * dense))
                solutions[level, step] = error
                yield from errors("imp", replicate, step, level, error)
                if controls and place == len(rewind_steps) - 1 and level % 3 == 0:
                    yield from errors(
                        "random", replicate, step, level, _examples(rng.gauss(dense * (1 + 0.06 * level**2), 0.004))
                    )
                    yield from errors(
                        "reinit", replicate, step, level, _examples(rng.gauss(dense * (1.2 + 0.05 * level**2), 0.004))
                    )
            for level in range(levels if connectivity else 0):
                ends = solutions[level, step], solutions[level + 1, step]
                height = abs(rng.gauss(0.003, 0.002)) if late else rng.uniform(0.35, 0.75)
                yield from _path(base, replicate, step, level, ends, height)


def _path(base, replicate, rewind_step, level, ends, height):
    place = base | {
        "experiment": "connectivity",
        "variant": "imp",
        "replicate": replicate,
        "rewind_step": rewind_step,
        "level": level,
        "density": 0.8**level,
        "to_level": level + 1,
    }
    path = [min(1.0, (1 - k / 10) * ends[0] + k / 10 * ends[1] + height * 4 * k / 10 * (1 - k / 10)) for k in range(11)]
    for position, error in enumerate(path):
        yield place | {"metric": "path_error", "value": error, "position": position / 10}
        yield place | {"metric": "path_loss", "value": 4 * error, "position": position / 10}
    yield place | {"metric": "barrier", "value": height}
    yield place | {"metric": "max_error", "value": max(path)}


def _examples(error):
    """A fraction of 500 test examples."""
    return round(500 * min(1.0, max(0.0, error))) / 500


def invented_record(**changes):
    return {
        "setting": "invented",
        "scale": "paper",
        "title": "Invented numbers in the shape of a lottery-ticket run",
        "paper": "Paul et al., Unmasking the Lottery Ticket Hypothesis, 2022",
        "data": "No data: the numbers were drawn at random for a test.",
        "synthetic": False,
        "protocol": [
            ["steps", 600, "ours"],
            ["learning rate", 0.3, "ours"],
            [
                "prunable weights",
                "every convolution and fully connected layer, shortcuts and classifier included",
                "open_lth",
            ],
        ],
        "replicates": 4,
        "rewind_steps": [0, 60, 200],
        "levels": 12,
        "steps": 600,
        "fraction": 0.2,
        "command": "python -m sparselt.reproduce invented",
        "versions": {"torch": "2.15.0", "numpy": "2.4.6"},
        "device": "cpu: an invented processor",
        "seed": 0,
    } | changes


INVENTED_LEDGER = [
    ("a1", "dataset", "write", "ran", 1797, "1.250", "2022-01-01T00:00:00"),
    ("a2", "train", "level 0", "found", 600, "2.300", "2022-01-01T00:00:00"),
    ("a3", "train", "level 1", "ran", 540, "2.100", "2022-01-01T00:00:00"),
    ("a4", "train", "level 2", "failed", 10, "0.100", "2022-01-01T00:00:00"),
    ("a5", "path", "levels 0 to 1", "skipped", 0, "0.000", "2022-01-01T00:00:00"),
]


def make_run(folder, rows=None, record=None, ledger=INVENTED_LEDGER):
    """Write a run folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    record = invented_record() if record is None else record
    write_results(folder, invented_rows() if rows is None else rows, record)
    (folder / "record.json").write_text(json.dumps(record))
    if ledger is not None:
        with (folder / "ledger.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["stage", "kind", "label", "status", "steps", "seconds", "finished"])
            writer.writerows(ledger)
    return folder


@pytest.fixture(scope="session")
def invent():
    """The three makers of this file: rows(…), record(…), run(folder, …)."""
    return SimpleNamespace(rows=lambda **shape: list(invented_rows(**shape)), record=invented_record, run=make_run)


@pytest.fixture(scope="session")
def reported(tmp_path_factory):
    """A run of the full shape with its report. Tests do not write into it."""
    folder = make_run(tmp_path_factory.mktemp("run"))
    write_report(folder, sections_of(EXPERIMENTS))
    return folder
