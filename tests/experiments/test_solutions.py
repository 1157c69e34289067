"""Experiments that rest on the errors of dense networks and tickets measure them where `imp` does not run."""

import pytest

from sparselt.errors import SettingError
from sparselt.experiments import EXPERIMENTS, Experiment, Measurement
from sparselt.experiments.rounds import measured
from sparselt.stages.train import Train

GRIDS = dict(landscape_levels=(1,), flatness_levels=(0, 1), perturbation_scales=(1.0,))


def of_run(bench, *names, **changes):
    """The places of the measured errors in a run of these experiments, by experiment, and its measurements."""
    lab = bench.lab(grids=GRIDS, **changes)
    found = measured({name: EXPERIMENTS[name] for name in names}, lab)
    errors = {name: [] for name in names}
    for m in found:
        if isinstance(m.stage, Train) and not m.condition:
            errors[m.experiment].append((m.variant, m.replicate, m.rewind_step, m.level, m.stage.key))
    return errors, found


@pytest.mark.parametrize("name", ["connectivity", "landscape"])
@pytest.mark.parametrize("changes", [{}, {"level_0": "rewound"}, {"dense_replicates": 3}])
def test_alone_they_measure_the_errors_that_imp_would(bench, name, changes):
    imp, _ = of_run(bench, "imp", **changes)
    alone, _ = of_run(bench, name, **changes)
    assert sorted(alone[name], key=str) == sorted((e for e in imp["imp"] if e[0] in ("dense", "imp")), key=str)


def test_the_dense_errors_alone_are_what_flatness_takes_epsilon_from(bench):
    alone, _ = of_run(bench, "flatness", dense_replicates=3)
    assert [(variant, replicate) for variant, replicate, *_ in alone["flatness"]] == [("dense", k) for k in range(3)]


def test_beside_imp_nothing_is_measured_twice(bench):
    with_imp, found = of_run(bench, "imp", "connectivity", "landscape", "flatness")
    assert not (with_imp["connectivity"] or with_imp["landscape"] or with_imp["flatness"])
    lab = bench.lab(grids=GRIDS)
    own = [m for name in ("imp", "connectivity", "landscape", "flatness") for m in EXPERIMENTS[name](lab)]
    assert [m.cells for m in found] == [m.cells for m in own]


def test_an_experiment_of_ones_own_rests_on_another_under_its_own_name(bench):
    def driver(lab):
        """Nothing of its own but the dense network's copy."""
        yield Measurement("mine", "copy", 0, None, 0, lab.training(lab.seeds(0, 0, data_order_copy=1), label="copy"))

    def ticket(lab, name):
        yield Measurement(name, "imp", 0, 0, 1, lab.ticket(0, 0, 1))

    mine = Experiment(driver, "nobody", rests_on={"imp": ticket})
    alone = measured({"mine": mine}, bench.lab())
    assert [(m.experiment, m.variant) for m in alone] == [("mine", "copy"), ("mine", "imp")]
    beside = measured({"imp": EXPERIMENTS["imp"], "mine": mine}, bench.lab())
    assert [m.variant for m in beside if m.experiment == "mine"] == ["copy"]
    for wrong in ("imp", {"imp": "errors"}):
        with pytest.raises(SettingError, match=r"rests_on is .*; expected functions by name"):
            Experiment(driver, "nobody", rests_on=wrong)
