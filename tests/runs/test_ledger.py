"""ledger.csv says what trainings on live weights alone would have taken at the pace of the dense ones."""

import pytest

from sparselt.runs.ledger import Entry, with_densities


def entries(bench, stages, seconds=(1.0, 0.25), steps=240):
    bench.run(*stages)
    return [
        Entry(stage.key, "train", "training", "ran", steps, each, "now")
        for stage, each in zip(stages, seconds, strict=True)
    ]


@pytest.mark.parametrize(
    ("up_to", "steps", "expected"),
    [(0.9, 240, 1.0), (0.5, 240, None), (0.0, 240, None), (0.9, 24, None)],
    ids=["on live weights", "denser than sparse_up_to", "torch's step", "too few dense steps for a pace"],
)
def test_only_trainings_on_live_weights_are_counted_at_the_dense_pace(bench, up_to, steps, expected):
    lab = bench.lab(sparse_up_to=up_to)
    stages = [lab.dense(0), lab.ticket(0, 0, 1)]
    dense, masked = with_densities(entries(bench, stages, steps=steps), stages, bench.store)
    assert dense.density == 1 and masked.density == pytest.approx(0.8, abs=0.01)
    assert dense.dense_seconds is None
    assert masked.dense_seconds == (None if expected is None else pytest.approx(expected))
