"""The section on retraining, on invented sizes."""

import numpy as np
import pytest

from sparselt.experiments.retraining.report import SECTION
from sparselt.report.data import Data
from sparselt.report.results import Row

DENSITIES = {level: 0.8**level for level in range(1, 10)}


def row(variant, replicate, level, metric, value, retrained, position=None):
    place = ("digits_resnet8", "mini", "retraining", variant, replicate, 60, level)
    at = {"position": position, "condition": f"retrained={retrained}"}
    return Row(*place, DENSITIES[level], metric, value, **at)


def rows(after=0.2, before=0.4):
    for variant in ("imp", "lr_rewinding", "fine_tuning"):
        for replicate in range(4):
            for level in DENSITIES:
                yield row(variant, replicate, level, "pruned_size", after + 0.01 * replicate, "yes")
                yield row(variant, replicate, level, "pruned_size", before + 0.01 * (replicate % 2), "no")
            for place, position in enumerate(np.linspace(0.05, 2.95, 30)):
                for retrained in ("yes", "no"):
                    yield row(variant, replicate, 4, "magnitude_share", 0.01 * place, retrained, position)


@pytest.mark.parametrize(
    ("after", "before", "verdict"), [(0.2, 0.4, "agrees"), (0.4, 0.2, "does not agree"), (0.3, 0.3, "cannot be seen")]
)
def test_verdict_follows_the_sizes_at_the_judged_level(after, before, verdict):
    (claim,) = SECTION.claims(Data(list(rows(after, before)), {}))
    assert claim.verdict.startswith(verdict) and "at 16.8% of the weights" in claim.here and claim.n == 4


def test_every_way_of_training_again_is_described_and_drawn():
    data = Data(list(rows()), {})
    texts = SECTION.findings(data)
    names = ("weight rewinding", "learning-rate rewinding", "fine-tuning")
    assert all(name in text for name, text in zip(names, texts, strict=True))
    assert SECTION.drawings(data).keys() == {"retraining", "retraining_histograms"}


def test_a_single_level_stands_in_the_middle_of_its_axis():
    drawn = SECTION.drawings(Data([row for row in rows() if row.level == 4], {}))["retraining"].figure
    assert all(axes.get_xlim()[0] > DENSITIES[4] > axes.get_xlim()[1] for axes in drawn.axes)
