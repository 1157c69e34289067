"""One run, from its setting to its report."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence

from rich.console import Console

from sparselt.experiments.checks import winograd_would_pay
from sparselt.experiments.data import check_data, titled
from sparselt.experiments.display import (
    RoundDisplay,
    print_estimate,
    print_places,
    print_plan,
    print_protocol,
    print_schedules,
)
from sparselt.experiments.events import JsonLines, plan_event, watching
from sparselt.experiments.experiment import Experiment
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.outcome import Outcome, conclude
from sparselt.experiments.planning import PlannedRun, plan_run, values_read
from sparselt.experiments.record import protocol
from sparselt.experiments.rounds import run_rounds
from sparselt.experiments.sections import sections_of
from sparselt.experiments.setting import Setting
from sparselt.experiments.threads import with_threads
from sparselt.experiments.where import Where, check_gpu, check_out, check_simulation, pool_of
from sparselt.runs.devices import cpu_has_bfloat16
from sparselt.runs.estimate import Speed, assumed_speed, estimate
from sparselt.runs.inventory import note_plan
from sparselt.runs.ledger import Entry
from sparselt.runs.loggers import check_installed
from sparselt.runs.pool import Pool
from sparselt.stages.identity import to_json
from sparselt.stages.stage import Stage
from sparselt.stages.train import Train
from sparselt.stopping import directing


def run(
    setting: Setting,
    usual: Setting,
    experiments: Mapping[str, Experiment],
    left_out: Mapping[str, str],
    where: Where,
    console: Console,
    dry_run: bool = False,
    show_protocol: bool = False,
) -> Outcome:
    """Plans, runs and reports. Everything is checked before anything is written.

    Args:
        setting: checked.
        usual: the setting at its default scale, for the sources of its numbers.
        experiments: to be run, by name.
        left_out: experiments that do not apply, and why.
        dry_run: print the plan and stop.
        show_protocol: print every value with its source first; stop there, unless it is a dry run.
    """
    setting = dataclasses.replace(setting, left_out=values_read(experiments, setting))
    sections = sections_of(experiments)  # a mistake in a section is named before anything trains
    dataset = check_data(where.data, setting, dry_run or show_protocol)
    data = None if dataset is None else dataset.folder
    setting = titled(setting, usual, dataset)
    for kind in where.log:
        check_installed(kind)
    check_out(where.out)
    check_simulation(where, dry_run)
    named_threads = setting.threads
    setting = with_threads(setting, where, experiments, data)
    if show_protocol:
        print_protocol(console, protocol(setting, usual))
        if not dry_run:
            return Outcome(None)
        console.print()
    pool = pool_of(where, setting, dry_run)
    planned = plan_run(setting, experiments, where, data, writable=not dry_run)
    with contextlib.ExitStack() as presence:  # until nothing in the store is needed any more
        with directing(pool.signal), pool:
            if not dry_run:
                presence.enter_context(planned.store.present(planned.name))
            missing = planned.plan.missing(planned.store)
            print_plan(console, setting, planned.plan, missing, planned.store, planned.measurements, left_out)
            _print_notes(planned, missing, named_threads, where, console)
            if where.gpus is not None and where.images_per_second is not None:  # a dry run, see `check_simulation`
                _print_simulation(planned, missing, where.gpus, where.images_per_second, console)
                speed = Speed({}, "")
            else:
                speed = _estimated(planned, missing, pool, where, console)
            if dry_run:
                if where.json:
                    _print_json_plan(planned, missing, pool, speed)
                print_places(console, where.out, planned.name, show_protocol)
                return Outcome(None)
            trains = any(isinstance(stage, Train) for stage in missing)
            if trains and where.device == "cpu" and winograd_would_pay(setting):
                _print_winograd(console)
            measurements, entries = _run_stages(planned, missing, pool, speed, where, console)
        return conclude(planned, measurements, entries, usual, sections, where, console)


def _print_notes(planned: PlannedRun, missing: list[Stage], named_threads: int, where: Where, console: Console) -> None:
    """What of this machine and plan a user should know. named_threads: those of the setting as it was given."""
    setting, plan = planned.setting, planned.plan
    if setting.threads != named_threads and where.threads is None:
        console.print(
            f"Each training has {setting.threads} threads, because the plan makes {plan.width()} at a time; "
            "they decide its bits. --threads 1 gives it one.",
            highlight=False,
        )
    slow = where.device == "cpu" and setting.precision == "bfloat16" and cpu_has_bfloat16() is False
    if slow and missing:
        console.print(
            "This CPU has no bfloat16 instructions and emulates them slowly; --set precision=float32 is "
            "faster, and is another protocol.",
            style="yellow",
            highlight=False,
        )


def _print_winograd(console: Console) -> None:
    console.print(
        "--set winograd=true would spare most multiplications of 3×3 convolutions: ResNet-20 trains 1.4 times as fast. "
        "It rounds differently, so it is another protocol.",
        highlight=False,
    )


def _print_json_plan(planned: PlannedRun, missing: list[Stage], pool: Pool, speed: Speed) -> None:
    """The plan of a dry run for scripts, with the estimate if one was made."""
    seconds = None if missing and not speed.basis else speed.total(missing, planned.plan, pool.count)
    JsonLines().log(plan_event(planned.plan, missing) | {"seconds": seconds, "run": planned.name})


def _print_simulation(
    planned: PlannedRun, missing: list[Stage], gpus: int, images_per_second: float, console: Console
) -> None:
    """The plan on up to so many GPUs, for a dry run."""
    setting, plan = planned.setting, planned.plan
    assumed = assumed_speed(plan, setting.batch_size, setting.evaluated_count, images_per_second)
    print_schedules(console, plan, missing, assumed, gpus, images_per_second)


def _estimated(planned: PlannedRun, missing: list[Stage], pool: Pool, where: Where, console: Console) -> Speed:
    """The speed of what is missing, measured over a few steps and printed. A GPU that is too small is refused."""
    setting, plan, store = planned.setting, planned.plan, planned.store
    if where.device == "cuda" and any(isinstance(stage, Train) for stage in missing):
        check_gpu(setting, missing, pool)
    if not any(stage.cost_depends_on for stage in missing):
        return Speed({}, "")
    with console.status("timing a few steps"):
        speed = estimate(plan, store, setting.train_size, setting.evaluated_count, pool, where.cohort)
    print_estimate(console, speed.total(missing, plan, pool.count), speed.basis, pool.count)
    return speed


def _run_stages(
    planned: PlannedRun, missing: list[Stage], pool: Pool, speed: Speed, where: Where, console: Console
) -> tuple[Sequence[Measurement], Sequence[Entry]]:
    """Makes all stages; returns the measurements and the ledger of their stages."""
    store, name = planned.store, planned.name
    store.sweep()
    shown, config = RoundDisplay(console, speed, pool.count), to_json(planned.setting)
    watcher = watching(shown, console, store, where.log, where.json, where.out / name, config)
    with contextlib.closing(watcher) as display:
        found = run_rounds(
            planned.experiments,
            planned.lab,
            planned.found,
            planned.measurements,
            store,
            pool,
            display,
            lambda plan: note_plan(store, name, plan.stages, where.command, "stopped"),
            (planned.plan, missing),
        )
    store.sweep()  # what a run on another machine left can be told only after a while
    return found
