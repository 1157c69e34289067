"""The output of a run for a person: first the plan, then a progress display."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from sparselt.experiments.measurement import Measurement
from sparselt.experiments.setting import Setting
from sparselt.report.wording import count, in_unit, verb
from sparselt.runs.edited import edited
from sparselt.runs.estimate import Speed
from sparselt.runs.ledger import Entry
from sparselt.runs.plan import Plan
from sparselt.runs.simulation import RESTART, SAVE, simulate
from sparselt.runs.store import Store
from sparselt.stages.stage import Stage
from sparselt.stages.train import Train

_LINE_EVERY = 20.0
_PREEMPTED = 4 * 3600.0  # seconds


def print_plan(
    console: Console,
    setting: Setting,
    plan: Plan,
    missing: Sequence[Stage],
    store: Store,
    measurements: Sequence[Measurement],
    left_out: Mapping[str, str],
) -> None:
    """Prints stages, how many the store has, units to do, what sharing saves, and why experiments are left out.

    missing: the stages that the store lacks, as `plan.missing` found them.
    """
    table = Table(title=f"{setting.title} ({setting.name}, scale {setting.scale})", title_justify="left")
    table.add_column("stage")
    for name in ("stages", "in store", "to do"):
        table.add_column(name, justify="right")
    table.add_column("units to do", justify="right")
    for total in plan.totals(missing):
        to_do = total.stages - total.found
        units = in_unit(total.work, total.unit) if to_do else "–"
        table.add_row(total.title, str(total.stages), str(total.found), str(to_do), units)
    console.print(table)
    distinct, alone = len(plan.trainings()), trainings_alone(measurements)
    console.print(
        f"{count(distinct, 'training')} {verb(distinct, 'serves', 'serve')} all curves; each curve trained alone would "
        f"take {alone} ({alone - distinct} {verb(alone - distinct, 'is', 'are')} shared).",
        highlight=False,
    )
    again = sum(isinstance(stage, Train) and not stage.outputs <= _made(store, stage) for stage in missing)
    if again:
        console.print(
            f"{again} of those to do {verb(again, 'was trained before, and is', 'were trained before, and are')} again "
            "for checkpoints that were not kept.",
            highlight=False,
        )
    started = sum(isinstance(stage, Train) and store.started(stage) for stage in missing)
    if started:
        console.print(
            f"{started} of those to do {verb(started, 'goes', 'go')} on where the training was stopped.",
            highlight=False,
        )
    damaged = [stage.name for stage in missing if store.damaged(stage)]
    if damaged:
        more = f", and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        console.print(
            f"Damaged in the store, and made again: {'; '.join(damaged[:3])}{more}.",
            style="yellow",
            highlight=False,
            markup=False,
        )
    for what, stages in edited(store, missing).items():
        number = count(stages, "stage")
        console.print(
            f"Made anew, because the file of {what} was edited since: {number}, and what takes their files. Results "
            "and report replace those of before the edit; another --out keeps both.",
            highlight=False,
            markup=False,
        )
    if setting.left_out:
        console.print(
            f"Past the last level ({setting.levels}) or step ({setting.steps:,}), and left out: "
            f"{'; '.join(setting.left_out)}.",
            highlight=False,
            markup=False,
        )
    for name, reason in left_out.items():
        console.print(f"Left out: {name}, for {reason}.", highlight=False, markup=False)
    if not missing:
        console.print("Everything is in the store: nothing to train, only to draw.", highlight=False)


def _made(store: Store, stage: Stage) -> set[str]:
    """The files of a finished stage; the wanted outputs if it never ran."""
    return set(store.record(stage).get("files", stage.outputs))


def print_protocol(console: Console, protocol: Sequence[tuple[str, object, str]]) -> None:
    """Prints every number of the protocol with its source."""
    table = Table(title="Protocol", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("what", "value", "source"):
        table.add_column(name)
    for name, value, source in protocol:
        table.add_row(name, " · ".join(map(str, value)) if isinstance(value, list) else str(value), source)
    console.print(table)


def print_estimate(console: Console, seconds: float, basis: str, workers: int) -> None:
    """Prints how long the rest will take, and the basis of this number."""
    if not basis:
        console.print("No estimate: the workers that timed a few steps were killed (out of memory?).", style="yellow")
        return
    console.print(f"Estimated time: {duration(seconds)} on {count(workers, 'worker')} (from {basis}).", highlight=False)


def print_places(console: Console, out: Path, name: str, protocol_shown: bool) -> None:
    """Says at the end of a dry run where a run would write, and how to see the protocol."""
    text = f"Nothing was run. Results and report would go to {out / name}, networks to {out / 'store'}."
    if not protocol_shown:
        text += " Every value with its source: the same command with --protocol."
    console.print(text, highlight=False, markup=False)


def print_schedules(
    console: Console, plan: Plan, missing: Sequence[Stage], speed: Speed, most: int, assumed: float
) -> None:
    """Prints how long the missing stages take on 1, 2, 4, … up to `most` GPUs.

    assumed: images a second that one of them trains.
    """
    keys = {stage.key for stage in missing}

    def cost(stage: Stage) -> float:
        return speed.of(stage) if stage.key in keys else 0.0

    counts = [2**k for k in range(most.bit_length()) if 2**k < most] + [most]
    table = Table(title="Simulated schedule", title_justify="left")
    for name in ("GPUs", "time", "at work", "GPU hours", "preempted every 4 h"):
        table.add_column(name, justify="right")
    for schedule in (simulate(plan, cost, gpus, _PREEMPTED) for gpus in counts):
        hours = schedule.workers * schedule.seconds / 3600
        times = (duration(schedule.seconds), f"{schedule.busy:.0%}", f"{hours:,.0f}", duration(schedule.preempted))
        table.add_row(str(schedule.workers), *times)
    console.print(table)
    chain = max(plan.longest_chains(cost).values(), default=0.0)
    one_by_one = max(plan.longest_chains(lambda s: float(isinstance(s, Train) and s.key in keys)).values(), default=0.0)
    console.print(
        f"Assumed, not measured: {assumed:,.0f} images a second in training, three times as many in evaluation, one "
        f"training a GPU; a preemption loses {SAVE / 2 / 60:.0f} min of work and {RESTART / 60:.0f} min until work "
        f"goes on. More GPUs help until {duration(chain)}, the longest chain: {count(int(one_by_one), 'training')}, "
        "each of which needs the one before it.",
        highlight=False,
    )


def trainings_alone(measurements: Sequence[Measurement]) -> int:
    """The number of trainings if every curve (experiment, variant, rewind step, replicate) were trained alone."""
    curves: dict[tuple, list[Stage]] = {}
    for m in measurements:
        curves.setdefault((m.experiment, m.variant, m.condition, m.rewind_step, m.replicate), []).extend(m.stages)
    return sum(len(Plan(stages).trainings()) for stages in curves.values())


class RoundDisplay:
    """Shows the rounds of a run, see `sparselt.experiments.rounds.RoundWatcher`."""

    def __init__(self, console: Console, speed: Speed, workers: int):
        self._console, self._speed, self._workers = console, speed, workers
        self._open: ProgressDisplay | None = None

    def begin(
        self,
        plan: Plan,
        measurements: Sequence[Measurement],
        missing: list[Stage],
        more_trainings: int | None,
        shown: bool,
    ) -> "ProgressDisplay":
        """A round begins."""
        self.close()
        if more_trainings is not None:
            self._console.print(f"New results require {count(more_trainings, 'more training')}.", highlight=False)
        display = ProgressDisplay(self._console, plan, missing, self._speed, self._workers)
        if shown:
            display.open()
            self._open = display
        return display

    def close(self) -> None:
        """Ends the display of the last round."""
        if self._open is not None:
            self._open.close()
            self._open = None


class ProgressDisplay:
    """One line with an estimate of the time left: updated on a terminal, printed every 20 seconds in a log.

    It counts trainings, or stages where there is nothing to train.

    Args:
        missing: the stages that will run.
        speed: estimated seconds a unit. They weigh the stages; measured times then correct the estimate.
    """

    def __init__(self, console: Console, plan: Plan, missing: Sequence[Stage], speed: Speed, workers: int):
        self._console, self._workers = console, workers
        self._weights = {stage.key: max(speed.of(stage), 1e-3) for stage in missing}
        self._work = {stage.key: max(1, stage.work) for stage in missing}
        self._total = sum(self._weights.values())
        self._expected = speed.total(list(missing), plan, workers)
        self._done = 0.0
        self._running: dict[str, float] = {}
        self._trainings = sum(isinstance(stage, Train) for stage in missing)
        self._stages, self._stages_done = len(self._weights), 0
        self._trained = self._failed = self._elsewhere = 0
        self._began = self._printed = time.monotonic()
        self._first_work: tuple[float, float] | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=self._total, left="")

    def open(self) -> None:
        """Starts the line."""
        if self._console.is_terminal:
            self._progress.start()

    def close(self) -> None:
        """Ends the line and says how many trainings, or stages, were done."""
        self._progress.stop()
        spent = duration(time.monotonic() - self._began)
        others = f", {self._elsewhere} by other runs" if self._elsewhere else ""
        done = f"{self._trained} of {count(self._trainings, 'training')}"
        if not self._trainings:
            done = f"{self._stages_done} of {count(self._stages, 'stage')}"
        self._console.print(f"{done} done in {spent}{others}.", highlight=False)

    def progressed(self, stage: Stage, work: int) -> None:
        """A running stage has done part of its work."""
        if stage.key in self._weights:
            self._running[stage.key] = self._weights[stage.key] * min(1.0, work / self._work[stage.key])

    def finished(self, stage: Stage, entry: Entry) -> None:
        """A stage ended."""
        self._running.pop(stage.key, None)
        self._stages_done += stage.key in self._weights and entry.status in ("ran", "found")
        self._done += self._weights.pop(stage.key, 0.0)
        self._trained += isinstance(stage, Train) and entry.status == "ran"
        self._elsewhere += isinstance(stage, Train) and entry.status == "found"
        self._failed += entry.status == "failed"

    def tried(self, stage: Stage, error: str) -> None:
        """A stage has failed and will be tried again."""
        self._running.pop(stage.key, None)
        self._console.print(f"tried again: {error.splitlines()[-1]}", style="yellow", markup=False, highlight=False)

    def idle(self) -> None:
        """Draws the present state."""
        work = self._done + sum(self._running.values())
        now = time.monotonic()
        if self._first_work is None and self._trained:
            self._first_work = (now, work)
        text = f"{self._trained + self._elsewhere}/{self._trainings} trainings"
        if not self._trainings:
            text = f"{self._stages_done}/{self._stages} stages"
        text += f", {self._failed} failed" if self._failed else ""
        left = f"about {duration(self._left(now, work))} left" if self._expected or self._first_work else "no estimate"
        if self._console.is_terminal:
            self._progress.update(self._task, completed=work, description=text, left=left)
        elif now - self._printed > _LINE_EVERY:
            self._printed = now
            self._console.print(f"{text}, {left}", highlight=False)

    def state(self) -> dict[str, float]:
        """The share that is done, the trainings (made, by other runs too, of so many; failed stages), seconds."""
        now, work = time.monotonic(), self._done + sum(self._running.values())
        return {
            "done": work / self._total if self._total else 1.0,
            "trained": self._trained + self._elsewhere,
            "trainings": self._trainings,
            "failed": self._failed,
            "seconds": now - self._began,
            "seconds_left": self._left(now, work),
        }

    def _left(self, now: float, work: float) -> float:
        # The rate counts from the first finished training, to leave out imports and compilation.
        rest = self._total - work
        if self._first_work is None or now - self._first_work[0] < 5 or work <= self._first_work[1]:
            return max(0.0, self._expected * rest / self._total) if self._total else 0.0
        return rest * (now - self._first_work[0]) / (work - self._first_work[1])


def duration(seconds: float) -> str:
    """`40 s`, `3 min 20 s`, `5 h 10 min`, `12 days`."""
    if seconds < 1:
        return "under a second"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    if seconds < 72 * 3600:
        return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60} min"
    return f"{seconds / 86400:,.0f} days"
