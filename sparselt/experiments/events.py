"""A run as events: lines of JSON for scripts, and what the loggers get. Off by default.

Each is a mapping with `event`: `plan` (a round begins), `progress` (every five seconds), `measured` (a number of a
finished training, with the columns of results.csv), `finished` (a stage has ended), `tried` (it is tried again), `end`.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from sparselt.errors import SparseltError
from sparselt.experiments.display import ProgressDisplay, RoundDisplay
from sparselt.experiments.measurement import Measurement
from sparselt.runs.ledger import Entry
from sparselt.runs.loggers import LoggerProcess
from sparselt.runs.plan import Plan
from sparselt.runs.store import Store
from sparselt.stages.stage import Stage
from sparselt.stages.train import Train

_PROGRESS_EVERY = 5.0  # seconds


class Sink(Protocol):
    """Takes events and raises nothing. `error` says once why it has stopped, if so; `close` why something is lost."""

    name: str

    def log(self, event: Mapping[str, Any]) -> None: ...
    def error(self) -> str | None: ...
    def close(self) -> str | None: ...


class JsonLines:
    """Prints each event as a line of JSON on standard output."""

    name = "json"

    def __init__(self) -> None:
        self._error: str | None = None

    def log(self, event: Mapping[str, Any]) -> None:
        """Prints an event."""
        try:
            print(json.dumps(event, ensure_ascii=False), flush=True)
        except OSError as error:
            self._error = f"standard output cannot be written: {error.strerror}"
            # Python would raise again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def error(self) -> str | None:
        """The reason why nothing more is written, the first time it is asked for; then None."""
        told, self._error = self._error, None
        return told

    def close(self) -> str | None:
        """Nothing is left to write."""
        return self.error()


def watching(
    display: RoundDisplay,
    console: Console,
    store: Store,
    logs: Sequence[str],
    as_json: bool,
    folder: Path,
    config: Mapping[str, Any],
) -> "RoundDisplay | Events":
    """The display alone, or with what else watches the run.

    Args:
        logs: keys of `sparselt.runs.loggers.LOGGERS`.
        as_json: print lines of JSON.
        folder: the run's, whose name the loggers take.
        config: values of the setting, for the loggers.
    """
    sinks: list[Sink] = [LoggerProcess(kind, folder, folder.name, config) for kind in dict.fromkeys(logs)]
    if as_json:
        sinks.append(JsonLines())
    return Events(display, console, store, sinks) if sinks else display


def plan_event(plan: Plan, missing: Sequence[Stage]) -> dict[str, Any]:
    """How many stages a plan has, how many are missing, and how many of these are trainings."""
    trainings = sum(isinstance(stage, Train) for stage in missing)
    return {"event": "plan", "stages": len(plan.stages), "missing": len(missing), "trainings": trainings}


class Events:
    """Shows the rounds of a run and tells the sinks, see `sparselt.experiments.rounds.RoundWatcher`."""

    def __init__(self, display: RoundDisplay, console: Console, store: Store, sinks: list[Sink]):
        self._display, self._console, self._store, self._sinks = display, console, store, sinks
        self._told: set[tuple] = set()

    def begin(
        self,
        plan: Plan,
        measurements: Sequence[Measurement],
        missing: list[Stage],
        more_trainings: int | None,
        shown: bool,
    ) -> "_Round":
        """A round begins. What the store has of its trainings is told at once."""
        display = self._display.begin(plan, measurements, missing, more_trainings, shown)
        self.tell(**plan_event(plan, missing))
        wanted: dict[str, list[Measurement]] = {}
        for measurement in measurements:
            if isinstance(measurement.stage, Train) and measurement.to_level is None:
                wanted.setdefault(measurement.stage.key, []).append(measurement)
        for key in wanted.keys() - {stage.key for stage in missing}:
            self.measured(wanted[key])
        return _Round(self, display, wanted)

    def tell(self, event: str, **values: Any) -> None:
        """Hands an event to every sink, and names those that have stopped."""
        for sink in list(self._sinks):
            sink.log({"event": event, **values})
            if error := sink.error():
                self._sinks.remove(sink)
                self._warn(f"{sink.name} is dropped, the run goes on: {error}")
                sink.close()

    def measured(self, measurements: Sequence[Measurement]) -> None:
        """Tells the numbers of a finished training, once."""
        for measurement in measurements:
            if measurement.cells in self._told:
                continue
            self._told.add(measurement.cells)
            with contextlib.suppress(SparseltError):  # the run reads the same file at its end, and names it
                for row in measurement.rows(self._store.read):
                    self.tell("measured", **row)

    def close(self) -> None:
        """Ends the display and the sinks."""
        self._display.close()
        for sink in self._sinks:
            if error := sink.close():
                self._warn(f"{sink.name}: {error}")

    def _warn(self, text: str) -> None:
        self._console.print(text, style="yellow", markup=False, highlight=False)


class _Round:
    """The watcher of a round's stages."""

    def __init__(self, events: Events, display: ProgressDisplay, wanted: Mapping[str, list[Measurement]]):
        self._events, self._display, self._wanted = events, display, wanted
        self._last = time.monotonic()

    def progressed(self, stage: Stage, work: int) -> None:
        self._display.progressed(stage, work)

    def finished(self, stage: Stage, entry: Entry) -> None:
        self._display.finished(stage, entry)
        told = {"kind": entry.kind, "label": entry.label, "status": entry.status, "seconds": entry.seconds}
        self._events.tell("finished", **told)
        if isinstance(stage, Train):
            if entry.status in ("ran", "found"):
                self._events.measured(self._wanted.get(stage.key, ()))
            self._progress()

    def tried(self, stage: Stage, error: str) -> None:
        self._display.tried(stage, error)
        self._events.tell("tried", kind=stage.kind, label=stage.label, error=error)

    def idle(self) -> None:
        self._display.idle()
        if time.monotonic() - self._last >= _PROGRESS_EVERY:
            self._progress()

    def _progress(self) -> None:
        self._last = time.monotonic()
        self._events.tell("progress", **self._display.state())
