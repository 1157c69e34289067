"""`sparselt bench campaign`: the speed of a campaign, a factor at a time, and the hours of every setting.

The waterfall starts from an open_lth-style loop (`training_loops`) and adds our factors one after the other. All train
ResNet-20 on the same images, interleaved, on this machine. Two factors of a whole campaign are counted instead of
timed, and shown apart. Shared stages: the trainings of all curves on their own, over the trainings of the plan.
Adaptive schedule, with `--run`: the trainings of the fixed schedule over those of the adaptive one in a finished run.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

from sparselt.errors import SparseltError

IMAGES = 512  # four batches of 128: an epoch of the comparison
TITLE = "ResNet-20, batch 128"


def main(arguments: Sequence[str], prog: str = "sparselt bench campaign") -> int:
    """Returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    from sparselt.benchmarks.command import output_folder

    options = _options(arguments, prog)
    try:
        return _run(options, output_folder(options.out))
    except SparseltError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing is written", file=sys.stderr)
        return 130


def waterfall(seconds: Mapping[str, Sequence[float]], images: int) -> list[dict]:
    """One row for each factor, cumulative: factor, images_per_second (median), p20, p80, ratio to the first row and
    step to the row before. seconds: times of one pass over `images` images, in the order of the factors."""
    from sparselt.benchmarks.harness import percentiles

    rows: list[dict] = []
    for factor, times in seconds.items():
        low, median, high = percentiles(times)
        rate = images / median
        first, before = (rows[0], rows[-1]) if rows else ({"images_per_second": rate},) * 2
        rows.append(
            {
                "factor": factor,
                "images_per_second": rate,
                "p20": images / high,
                "p80": images / low,
                "ratio": rate / first["images_per_second"],
                "step": rate / before["images_per_second"],
                "rounds": len(times),
            }
        )
    return rows


def measure(calls: Mapping[str, Callable[[], float | None]], rounds: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Seconds of each call. Every round makes each call once, after `warm_up` rounds that do not count.

    A call that returns a number has measured its own time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for place in range(warm_up + rounds):
        for name, call in calls.items():
            start = perf_counter()
            itself = call()
            if place >= warm_up:
                seconds[name].append(perf_counter() - start if itself is None else itself)
    return seconds


def sharing() -> list[dict]:
    """For every setting at its paper scale: trainings, trainings if each curve were trained alone, optimizer steps."""
    from sparselt.experiments import EXPERIMENTS, Lab
    from sparselt.experiments.display import trainings_alone
    from sparselt.reproduce import SETTINGS, load_setting
    from sparselt.runs.plan import Plan

    rows = []
    for name in SETTINGS:
        setting = load_setting(name, "paper").checked()
        lab = Lab(setting)
        measurements = [m for experiment in EXPERIMENTS.values() for m in experiment(lab)]
        plan = Plan(stage for m in measurements for stage in m.stages)
        trainings = plan.trainings()
        rows.append(
            {
                "setting": name,
                "trainings": len(trainings),
                "alone": trainings_alone(measurements),
                "steps": sum(stage.work for stage in trainings),
                "images": sum(stage.work for stage in trainings) * setting.batch_size,
                "plan": plan,
                "lab": lab,
            }
        )
    return rows


def counted(shared: Sequence[Mapping], rows: Sequence[Mapping], run: Path | None = None) -> list[dict]:
    """Factors of a whole campaign, counted without training.

    Each has the ratio, what was counted, and the images a second at which a loop without the factor takes as long.
    """
    (cifar,) = (row for row in shared if row["setting"] == "cifar10_resnet20")
    ratio = cifar["alone"] / cifar["trainings"]
    factors = [
        {
            "factor": "shared stages",
            "step": ratio,
            "counted_in": f"the plan of cifar10_resnet20 at paper scale: {cifar['alone']} trainings curve by curve, "
            f"{cifar['trainings']} shared",
        }
    ]
    if run is not None:
        factors.append(adaptive_schedule(run))
    before = dict(rows[-1])
    for factor in factors:
        for name in ("images_per_second", "ratio"):
            before[name] *= factor["step"]
        factor |= {"images_per_second_equivalent": before["images_per_second"], "ratio": before["ratio"]}
    return factors


def adaptive_schedule(run: Path) -> dict:
    """The factor of adaptive pruning in a finished run: trainings to the target density, fixed over adaptive.

    Raises:
        StoreError: the folder holds no run.
        SettingError: the run has no experiment `adaptive`.
    """
    from sparselt.errors import SettingError
    from sparselt.report.results import read_results

    rows = [row for row in read_results(run) if row.experiment == "adaptive" and row.metric == "test_error"]
    trainings = {
        variant: [row.replicate for row in rows if row.variant == variant and row.level > 0]
        for variant in ("fixed", "adaptive")
    }
    if not all(trainings.values()):
        raise SettingError(f"{run} holds no adaptive pruning; give the folder of a run of the experiment adaptive")
    means = {variant: len(found) / len(set(found)) for variant, found in trainings.items()}
    return {
        "factor": "adaptive schedule",
        "step": means["fixed"] / means["adaptive"],
        "counted_in": f"{rows[0].setting} at scale {rows[0].scale}: {means['fixed']:.1f} trainings to "
        f"{rows[0].condition.removeprefix('target=')} of the weights, {means['adaptive']:.1f} with the adaptive one; "
        f"n = {len(set(trainings['adaptive']))}",
    }


def hours(row: Mapping, workers: int, device: str) -> float:
    """Estimated hours of a row of `sharing` on this machine, as `python -m sparselt.reproduce` estimates them."""
    from sparselt.experiments import EXPERIMENTS, Lab
    from sparselt.runs.estimate import estimate
    from sparselt.runs.plan import Plan
    from sparselt.runs.store import Store
    from sparselt.runs.workers import Workers

    setting = row["lab"].setting
    lab = Lab(setting, device)
    plan = Plan(stage for experiment in EXPERIMENTS.values() for m in experiment(lab) for stage in m.stages)
    with tempfile.TemporaryDirectory() as empty, Workers(workers) as pool:
        store = Store(Path(empty) / "store")
        speed = estimate(plan, store, setting.train_size, setting.test_count, pool)
        return speed.total(plan.missing(store), plan, workers) / 3600


def _options(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="The speed of training, a factor at a time, from an open_lth-style loop to ours; and the hours "
        "that every setting's paper scale would take on this machine.",
    )
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds; each trains every loop once (9)")
    parser.add_argument("--no-hours", action="store_true", help="skip the estimates of the settings")
    parser.add_argument("--device", metavar="cpu|cuda", help="where to train; the GPU if there is one")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="a run whose adaptive pruning is another factor")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the JSON file and the plot")
    options = parser.parse_args(arguments)
    if options.rounds < 3:
        parser.error(f"--rounds is {options.rounds}: expected 3 or more")
    return options


def _run(options: argparse.Namespace, folder: Path) -> int:
    from sparselt.benchmarks.command import chosen_device, prefix
    from sparselt.benchmarks.machine import machine
    from sparselt.files import write_json
    from sparselt.runs.workers import default_workers

    if options.run is not None:
        adaptive_schedule(options.run)  # a wrong folder is refused before anything is measured
    device = chosen_device(options.device)
    rows = waterfall(_measure(options.rounds, device), IMAGES)
    shared, here = sharing(), machine(device)
    if not options.no_hours:
        for row in shared:
            print(f"timing a few steps of {row['setting']}", file=sys.stderr, flush=True)
            workers = default_workers(row["lab"].setting.threads) if device == "cpu" else 1
            row["workers"], row["hours"] = workers, hours(row, workers, device)
    for row in shared:
        del row["plan"], row["lab"]
    result = {"format": 1, "suite": "campaign", "of": TITLE, "machine": here, "waterfall": rows, "settings": shared}
    result["counted"] = factors = counted(shared, rows, options.run)
    path = folder / f"{prefix(here)}-campaign.json"
    write_json(path, result)
    drawn = _draw(rows, factors, folder / f"{prefix(here)}-campaign", here["device_name"])
    if options.json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        _show(rows, factors, shared, here, [path, *drawn])
    return 0


def _measure(rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of a pass over `IMAGES` images, by factor."""
    import os

    import torch

    from sparselt.benchmarks import training_loops as loops

    def announce(count: int) -> None:
        print(f"training {TITLE} in {count} ways, {rounds} rounds", file=sys.stderr, flush=True)

    calls: dict[str, Callable[[], float | None]]
    if device != "cpu":
        ladder = {name: factors for name, factors in loops.LADDER.items() if name not in loops.CPU_ONLY}
        calls = {name: loops.epoch(factors, IMAGES, device) for name, factors in ladder.items()}
        calls |= {name: loops.cohort(networks, IMAGES) for name, networks in loops.COHORTS.items()}
        announce(len(calls))
        return measure(calls, rounds)
    ladder = loops.LADDER | loops.LIVE
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # A process keeps memory for all its loops or for none. So the loops that keep it run in a second process.
    keeping = {name: factors for name, factors in ladder.items() if factors.memory}
    on_each_core = {loops.PROCESSES: list(ladder.values())[-1]}
    with (
        contextlib.closing(loops.Processes(1, keeping, IMAGES, torch.get_num_threads())) as keeper,
        contextlib.closing(loops.Processes(cores, on_each_core, IMAGES, 1)) as trainers,
    ):
        calls = {
            name: partial(keeper.run, name) if name in keeping else loops.epoch(factors, IMAGES)
            for name, factors in ladder.items()
        }
        calls[loops.PROCESSES] = partial(trainers.run, loops.PROCESSES)
        announce(len(calls))
        seconds = measure(calls, rounds)
    # The processes trained on `IMAGES` images each, at the same time.
    return seconds | {loops.PROCESSES: [time / cores for time in seconds[loops.PROCESSES]]}


def _show(
    rows: Sequence[Mapping],
    derived: Sequence[Mapping],
    shared: Sequence[Mapping],
    here: Mapping,
    files: Sequence[Path],
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    title = f"{TITLE}: {here['device_name']}, {here['threads']} threads; each line keeps the factors above it"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("factor")
    for name in ("images/s", "20–80%", "this factor", "in all"):
        table.add_column(name, justify="right")
    for row in rows:
        ends = f"{row['p20']:,.0f}–{row['p80']:,.0f}"
        step = "" if row is rows[0] else f"{row['step']:.2f}×"
        table.add_row(row["factor"], f"{row['images_per_second']:,.0f}", ends, step, f"{row['ratio']:.2f}×")
    console.print(table)
    for row in derived:
        console.print(
            f"Of the campaign, not of a step, and counted, not timed: {row['factor']} {row['step']:.2f}× "
            f"({row['counted_in']}); {row['ratio']:.2f}× in all.",
            markup=False,
        )
    table = Table(title="Every setting at its paper scale", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting", no_wrap=True)
    for name in ("trainings", "alone", "shared", "images", "hours here"):
        table.add_column(name, justify="right")
    for row in shared:
        here_takes = f"{row['hours']:,.1f}" if "hours" in row else ""
        factor = f"{row['alone'] / row['trainings']:.2f}×"
        table.add_row(
            row["setting"],
            f"{row['trainings']}",
            f"{row['alone']}",
            factor,
            f"{row['images'] / 1e6:,.0f} M",
            here_takes,
        )
    console.print(table)
    console.print("alone: trainings if each curve were trained with all that it needs; shared: that over trainings.")
    for path in files:
        console.print(str(path), markup=False, soft_wrap=True)


def _draw(rows: Sequence[Mapping], derived: Sequence[Mapping], stem: Path, device: str) -> list[Path]:
    """One bar for each factor: images a second, and the ratio to the first. Counted factors have another colour."""
    from matplotlib.figure import Figure

    from sparselt.benchmarks.plots import save, style
    from sparselt.report.drawing import COLOURS, GREY

    with style():
        rates = [row["images_per_second"] for row in rows] + [row["images_per_second_equivalent"] for row in derived]
        colours = [GREY] + [COLOURS[0]] * (len(rows) - 1) + [COLOURS[1]] * len(derived)
        names = [row["factor"] for row in rows] + [f"+ {row['factor']} (counted)" for row in derived]
        figure = Figure(figsize=(6.2, 0.42 * len(rates) + 1.2), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(rates)), rates, color=colours, height=0.62)
        for place, row in enumerate([*rows, *derived]):
            axes.text(rates[place], place, f" {row['ratio']:.2f}×", va="center", fontsize=9)
        axes.set_yticks(range(len(rates)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12 * max(rates))
        axes.set_xlabel(f"images a second, {TITLE}; {device}\ncounted: of the campaign, not of a step; equivalent")
        return save(figure, stem)
