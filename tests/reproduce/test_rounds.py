"""Experiments whose next stage depends on what was measured: the run goes on until they ask for no more."""

import csv
import dataclasses
import shutil

import pytest
from grid_values import grids_of, with_grids

import sparselt.experiments as experiments
from sparselt.cli.reproduce import main
from sparselt.errors import SettingError
from sparselt.experiments import EXPERIMENTS, Experiment, Lab, Measurement
from sparselt.reproduce.digits_resnet8 import MINI
from sparselt.stages import Measurements

SMALL = [
    *("digits_resnet8", "--scale", "smoke", "--replicates", "2", "--workers", "1"),
    *("--set", "steps=24", "milestones=16"),
]


def search(lab: Lab):
    """A level more as long as the error of the one before was measured, three at most."""
    for replicate in range(lab.setting.replicates):
        for level in range(3):
            # The dense network's first weights are asked for at once: later it would be trained again for them.
            stage = lab.ticket(replicate, 0, level) if level else lab.checkpoint(replicate, 0).stage
            yield Measurement("search", "imp", replicate, 0, level, stage)
            if lab.read_if_made(stage.measured) is None:
                break


def rows_of(folder) -> list[dict]:
    (run,) = (folder / "runs").glob("digits_resnet8-smoke-????????")
    with (run / "results.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def searching(monkeypatch, tmp_path):
    monkeypatch.setitem(EXPERIMENTS, "search", Experiment(search, "nobody"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_search_is_planned_again_until_it_asks_for_no_more(searching, capsys):
    assert main([*SMALL, "--experiments", "search"]) == 0
    errors = {(r["replicate"], r["level"]) for r in rows_of(searching) if r["metric"] == "test_error"}
    assert errors == {(str(replicate), str(level)) for replicate in range(2) for level in range(3)}
    assert capsys.readouterr().out.count("require 2 more trainings") == 2
    before = rows_of(searching)
    assert main([*SMALL, "--experiments", "search"]) == 0 and rows_of(searching) == before
    assert "Everything is in the store" in capsys.readouterr().out


def test_a_search_that_diverges_ends_and_what_was_measured_is_kept(searching, capsys):
    def breaking(lab: Lab):
        """Trains well, then at a rate at which training diverges."""
        yield Measurement("search", "imp", 0, 0, 0, lab.dense(0))
        if lab.read_if_made(lab.dense(0).measured) is not None:
            yield Measurement("search", "imp", 0, 0, 1, lab.changed(lr=1e30).dense(0))

    experiments.EXPERIMENTS["search"] = Experiment(breaking, "nobody")
    assert main([*SMALL, "--experiments", "search"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "1 stage failed" in said and "A training that diverged does so again: change its setting." in said
    assert "tries again" not in said
    assert {row["level"] for row in rows_of(searching)} == {"0"}


def test_an_experiment_that_a_setting_cannot_run_is_refused_by_name_and_left_out_otherwise(searching, untimed, capsys):
    EXPERIMENTS["search"] = Experiment(search, "nobody", lambda setting: "it needs a telescope")
    assert main([*SMALL, "--experiments", "search"]) == 2
    assert "cannot run search: it needs a telescope" in capsys.readouterr().err
    assert main([*SMALL, "--dry-run"]) == 0
    assert "Left out: search, for it needs a telescope" in " ".join(capsys.readouterr().out.split())


def test_grids_are_set_like_the_settings_own_values_and_hold_nothing_past_the_end():
    setting = MINI.with_values(
        ["sibling_densities=0.3,0.15", "sibling_pretraining=0,2ep", "sibling_retrained=0", "lr=0.1"]
    ).checked()
    assert grids_of(setting).sibling_densities == (0.3, 0.15) and grids_of(setting).sibling_pretraining == (0, 40)
    assert setting.lr == 0.1 and grids_of(setting).stability_levels == grids_of(MINI).stability_levels
    short = dataclasses.replace(MINI, steps=100, milestones=(50,), levels=4, rewind_steps=(0, 40)).checked()
    assert grids_of(short).sibling_pretraining == (0, 20) and grids_of(short).stability_levels == ()
    assert "warmup" not in grids_of(short).stability_rates and grids_of(short).adaptive_rewind_step == 60


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("sibling_pretraining=0,700", "step 700 is at or past the end of training"),
        ("sibling_densities=0.2,1.5", "sibling_densities"),
        ("sibling_densities=nan", "sibling_densities"),
        ("sibling_counts=1", "2 to 64"),
        ("variants=random,rewound", "variants holds 'rewound'"),
        ("stability_levels=-1", "stability_levels holds -1; expected zero or more"),
        ("stability_levels=1,99", "level 99 of a setting of 12 levels; expected 12 at most"),
        ("landscape_levels=12", "level 12 of a setting of 12 levels; expected 11 at most"),
        ("perturbation_level=99", "expected 11 at most"),
        ("sibling_densities=0.000001", "sibling_densities holds 1e-06; expected at least 0.001"),
        ("flatness_images=0", "flatness_images is 0"),
        ("repulsion_strengths=inf", "repulsion_strengths"),
        ("heat_map=perhaps", "heat_map"),
        ("sibling_counts=2,2", "names a value twice"),
        ("control_rewind_step=77", "control_rewind_step is 77; expected one of rewind_steps"),
        ("levels=40", "levels is 40: pruning 0.2 of the weights so often leaves none of the 19,464 of resnet8"),
        ("replicates=1001", "replicates is 1,001; expected 1,000 at most"),
        ("adaptive_images=1298", "adaptive_images is 1,298; expected at most train_count, 1,297"),
        ("flatness_images=99999", "flatness_images is 99,999"),
        ("landscape_replicates=6", "landscape_replicates is 6; expected at most replicates, 5"),
        ("flatness_eigenvalues=500", "flatness_eigenvalues is 500, more than the 40"),
    ],
)
def test_a_grid_value_that_cannot_be_run_is_refused(value, words):
    with pytest.raises(SettingError, match=words):
        MINI.with_values([value]).checked()


@pytest.mark.parametrize(
    ("experiment", "value", "words"),
    [
        ("adaptive", "adaptive_density=1e-9", "less than one of the 19,464 weights of resnet8"),
        ("adaptive", "fraction=1e-17", "more than 1,000"),
        ("siblings", "sibling_densities=", "it has no sibling_densities; give such as --set sibling_densities=0.2"),
        ("siblings", "sibling_counts=", "it has no sibling_counts"),
        ("stability", "stability_rewind_steps=", "--set stability_rewind_steps=0,60,200"),
        ("landscape", "landscape_levels=", "--set landscape_levels=11"),
    ],
)
def test_why_an_experiment_does_not_apply_says_what_to_give(experiment, value, words):
    assert words in EXPERIMENTS[experiment].unsupported_reason(MINI.with_values([value]).checked())


def test_chains_that_a_shorter_schedule_cuts_are_not_counted_beyond_it_and_controls_stand_at_its_end():
    short = MINI.with_values(["levels=3", "fraction=0.9"]).checked()
    assert (grids_of(short).variant_levels, short.control_levels) == (3, (3,))
    assert MINI.changed(control_levels=()).checked().control_levels == ()


def test_a_plan_of_a_thousand_levels_asks_no_deeper_than_one_of_two():
    setting = dataclasses.replace(MINI, levels=1000, fraction=0.005, rewind_steps=(0,), replicates=1).checked()
    assert Lab(setting).ticket(0, 0, 1000).inputs["mask"].stage.inputs["weights"].stage.kind == "train"


def test_the_default_options_apply_to_nothing_but_imp_and_connectivity():
    setting = with_grids(MINI, {}, control_levels=()).checked()
    assert setting.options == with_grids(MINI, {}).options
    applies = {name for name, experiment in EXPERIMENTS.items() if not experiment.unsupported_reason(setting)}
    assert applies == {"imp", "connectivity"}


def test_two_trainings_in_the_same_cells_are_refused_before_anything_runs(searching, capsys):
    def careless(lab: Lab):
        """Two learning rates under one name."""
        for lr in (0.1, 0.3):
            yield Measurement("search", "dense", 0, None, 0, lab.changed(lr=lr).dense(0))

    EXPERIMENTS["search"] = Experiment(careless, "nobody")
    assert main([*SMALL, "--experiments", "search"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "experiment search measures variant dense" in error and "condition='name=value'" in error
    assert not list(searching.glob("runs/store/train"))


def test_a_mask_that_stands_in_the_same_place_twice_is_refused_before_anything_runs(searching, capsys):
    def careless(lab: Lab):
        """One stage, two measurements."""
        for _ in range(2):
            yield Measurement("search", "imp", 0, 0, 1, lab.mask(0, 0, 1).stage, network=lab.ticket(0, 0, 1))

    EXPERIMENTS["search"] = Experiment(careless, "nobody")
    assert main([*SMALL, "--experiments", "search"]) == 2
    assert "level 1 twice, each time a stage of kind prune" in " ".join(capsys.readouterr().err.split())
    assert not list(searching.glob("runs/store/train"))


def returns_nothing(lab: Lab):
    """Forgets to yield."""


def yields_a_stage(lab: Lab):
    """Forgets where the numbers stand."""
    yield lab.dense(0)


def takes_a_name(lab: Lab):
    """Measures in the name of another."""
    yield Measurement("imp", "dense", 0, None, 0, lab.dense(0))


def says_no_name(lab: Lab):
    """A condition without its name."""
    yield Measurement("search", "dense", 0, None, 0, lab.dense(0), condition="0.1")


def yields_nothing(lab: Lab):
    """Goes through no replicate."""
    yield from ()


def waits_for_nothing(lab: Lab):
    """Asks before it yields."""
    if lab.read_if_made(lab.dense(0).measured) is not None:
        yield Measurement("search", "dense", 0, None, 0, lab.dense(0))


def counts_in_halves(lab: Lab):
    """Half a level."""
    yield Measurement("search", "dense", 0, None, 0.5, lab.dense(0))


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (returns_nothing, "returns_nothing(lab) returned None; expected measurements"),
        (yields_a_stage, "yields_a_stage(lab) yields a Train; expected a Measurement"),
        (takes_a_name, "experiment search yields a Measurement of experiment 'imp'"),
        (counts_in_halves, "level is 0.5; expected a whole number from 0"),
        (says_no_name, "condition is '0.1'; expected name=value"),
        (yields_nothing, "search: no measurement is yielded, and so there is nothing to run"),
        (
            waits_for_nothing,
            "asks lab.read_if_made for measurements.json of 'dense, replicate 0', but yields no measurement",
        ),
    ],
)
def test_a_driver_that_gives_no_measurements_of_its_own_is_refused_by_name(searching, capsys, driver, words):
    EXPERIMENTS["search"] = Experiment(driver, "nobody")
    assert main([*SMALL, "--experiments", "search"]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not list(searching.glob("runs/store/train"))


def test_what_is_no_experiment_and_what_a_driver_raises_are_named(searching, capsys):
    def breaks(lab: Lab):
        """Divides by zero."""
        yield Measurement("search", "dense", 0, None, 0 // 0, lab.dense(0))

    EXPERIMENTS["search"] = Experiment(breaks, "nobody")
    with pytest.raises(ZeroDivisionError) as raised:
        main([*SMALL, "--experiments", "search"])
    assert raised.value.__notes__ == ["This was raised by the driver of experiment search."]
    EXPERIMENTS["search"] = breaks
    assert main([*SMALL, "--experiments", "search"]) == 2
    assert "EXPERIMENTS['search'] is" in capsys.readouterr().err


def test_a_stage_that_fails_though_what_needs_it_is_stored_ends_the_run(searching, capsys):
    assert main([*SMALL, "--experiments", "search"]) == 0
    # The pixels cannot be made again, and no training needs them any more.
    resident = searching / "runs" / "store" / "resident"
    shutil.rmtree(resident)
    resident.symlink_to("/proc/self")
    capsys.readouterr()
    assert main([*SMALL, "--experiments", "search"]) == 1
    shown = capsys.readouterr().out
    assert "more trainings" not in shown and "1 stage failed" in shown and "failed: pixels" in shown


def test_two_paths_in_the_same_cells_are_refused_before_anything_runs(searching, capsys):
    def careless(lab: Lab):
        """Two lines under one name."""
        for other in (1, 2):
            stage = lab.path(lab.dense(0), lab.ticket(0, 0, other), "line")
            yield Measurement("search", "line", 0, 0, 0, stage, to_level=1, network=lab.dense(0))

    EXPERIMENTS["search"] = Experiment(careless, "nobody")
    assert main([*SMALL, "--experiments", "search"]) == 2
    assert "levels 0 to 1 twice, each time a path" in " ".join(capsys.readouterr().err.split())
    assert not list(searching.glob("runs/store/train"))


def test_asking_for_what_nothing_makes_ends_the_run_with_an_error(searching, capsys):
    def unplanned(lab: Lab):
        """Asks for a training that it does not yield."""
        yield Measurement("search", "dense", 0, None, 0, lab.dense(0))
        lab.read_if_made(lab.dense(1).measured)

    def unmade(lab: Lab):
        """Asks for a file that its training does not make."""
        yield Measurement("search", "dense", 0, None, 0, lab.dense(0))
        lab.read_if_made(lab.dense(0).json_file("measurement.json", Measurements))

    EXPERIMENTS["search"] = Experiment(unplanned, "nobody")
    assert main([*SMALL, "--experiments", "search"]) == 2
    assert "measurements.json of 'dense, replicate 1', but yields no measurement" in capsys.readouterr().err
    EXPERIMENTS["search"] = Experiment(unmade, "nobody")
    assert main([*SMALL, "--experiments", "search"]) == 2
    assert "measurement.json of 'dense, replicate 0', which does not make it" in capsys.readouterr().err
    EXPERIMENTS["search"] = Experiment(search, "nobody")
    # The dense network was made without its first checkpoint, which tickets start from.
    assert main([*SMALL, "--experiments", "search", "--dry-run"]) == 0
    assert "1 of those to do was trained before" in " ".join(capsys.readouterr().out.split())
