"""Layers that pruning left without a weight are named, whichever experiment made the mask."""

import dataclasses
import io

from rich.console import Console

from sparselt.experiments import EXPERIMENTS
from sparselt.experiments.imp.report import warnings
from sparselt.experiments.sections import sections_of
from sparselt.report import console_summary, write_report
from sparselt.report.data import Data
from sparselt.report.results import Row

LAYER = "stages.2.conv.weight"


def row(experiment, variant, replicate, step, level, condition="") -> Row:
    place = ("invented", "mini", experiment, variant, replicate, step, level, 0.8**level, "empty_layer", 1.0)
    return Row(*place, condition=f"{condition} layer={LAYER}".strip())


def test_a_layer_is_named_once_with_all_networks_that_it_is_empty_in():
    rows = [row("imp", "imp", k, 0, 3) for k in (0, 2)] + [row("imp", "imp", 0, 0, 4)]
    rows += [row("stability", "imp", 1, 60, 9, "rate=low"), row("adaptive", "adaptive", 0, 200, 5, "target=0.1")]
    (text,) = warnings(Data(rows, {}))
    assert f"layer {LAYER} of imp rewound to step 0 at level 3–4 (replicate 0, 2)" in text
    assert "imp in stability rewound to step 60 at level 9 (rate=low, replicate 1)" in text
    assert "adaptive in adaptive rewound to step 200 at level 5 (target=0.1, replicate 0)" in text
    assert list(warnings(Data([dataclasses.replace(r, metric="barrier") for r in rows], {}))) == []


def test_layers_empty_in_the_same_networks_share_a_sentence():
    rows = [row("imp", "imp", 0, 0, 3), dataclasses.replace(row("imp", "imp", 0, 0, 3), condition="layer=stem.weight")]
    (text,) = warnings(Data(rows, {}))
    assert f"layers {LAYER} and stem.weight of imp rewound to step 0 at level 3 (replicate 0)" in text


def test_they_are_warned_of_in_the_terminal_and_on_the_page(tmp_path, invent):
    rows = invent.rows(levels=2)
    place = {name: rows[-1][name] for name in ("setting", "scale")}
    place |= {"experiment": "imp", "variant": "imp", "replicate": 1, "rewind_step": 60, "level": 2, "density": 0.64}
    rows.append(place | {"metric": "empty_layer", "value": 1.0, "condition": "layer=classifier.weight"})
    console = Console(width=200, record=True, file=io.StringIO())
    folder = invent.run(tmp_path, rows)
    console_summary(folder, console, sections_of(EXPERIMENTS))
    words = "no weight in layer classifier.weight of imp rewound to step 60 at level 2"
    assert words in console.export_text()
    assert words in write_report(folder, sections_of(EXPERIMENTS)).read_text()
