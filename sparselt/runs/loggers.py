"""Loggers of a run, TensorBoard and Weights & Biases, each in a process of its own.

So a logger that waits for a network, prints, raises or crashes does nothing to the run, which never waits for it.
"""

import multiprocessing
import os
import queue
import re
import signal
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from sparselt.errors import SettingError, naming_extras
from sparselt.stopping import starting_processes

_CLOSE_SECONDS = 15.0
_LOOK_SECONDS = 2.0
_OPEN_CURVES = 64  # each has an open file and a thread


class Logger(Protocol):
    """What runs in the logger's process. `event` is one of `sparselt.experiments.events`."""

    def log(self, event: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


def curve(event: Mapping[str, Any]) -> str:
    """The name of the curve that a training's measurements belong to; its points are at the levels."""
    parts = [event["experiment"], event["variant"], event["condition"]]
    parts += [] if event["rewind_step"] is None else [f"rewind {event['rewind_step']}"]
    return ", ".join(filter(None, [*parts, f"replicate {event['replicate']}"]))


class TensorBoard:
    """Writes `<folder>/tensorboard`: one folder for each curve, with levels as steps, and `progress` with seconds as
    steps.
    """

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]):
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._open: Callable[[str], Any] = EventFileWriter
        self._folder = folder / "tensorboard"
        self._writers: dict[str, Any] = {}
        self._last: tuple[str, int] | None = None  # curve and level of the last measurement

    def log(self, event: Mapping[str, Any]) -> None:
        """Writes a training's measurements, or progress, to disk."""
        if event["event"] == "measured":
            place, level, scalars = curve(event), event["level"], {event["metric"]: event["value"]}
            if (place, level) != self._last:  # the metrics of a training come one after the other
                self._last, scalars["density"] = (place, level), event["density"]
            self._write(place, level, scalars)
        elif event["event"] == "progress":
            done = {name: event[name] for name in ("done", "trained", "failed")}
            self._write("progress", round(event["seconds"]), done)

    def _write(self, place: str, step: int, scalars: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if place not in self._writers:
            if len(self._writers) == _OPEN_CURVES:
                self._writers.pop(next(iter(self._writers))).close()
            self._writers[place] = self._open(str(self._folder / re.sub(r"[^\w=., -]", "_", place)))
        values = [Summary.Value(tag=tag, simple_value=number) for tag, number in scalars.items()]
        self._writers[place].add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self._writers[place].flush()

    def close(self) -> None:
        """Ends all files."""
        for writer in self._writers.values():
            writer.close()


class WandB:
    """A run of Weights & Biases, of the name and the folder of this one; WANDB_MODE, WANDB_PROJECT … are heeded."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]):
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(dir=folder, name=name, id=name, resume="allow", config=dict(config), settings=quiet)
        self._run.define_metric("level")
        self._run.define_metric("*", step_metric="level")
        self._run.define_metric("seconds")
        self._run.define_metric("progress/*", step_metric="seconds")

    def log(self, event: Mapping[str, Any]) -> None:
        """Sends a training's measurement, or progress."""
        if event["event"] == "measured":
            place = f"{event['metric']}/{curve(event)}"
            self._run.log({place: event["value"], "level": event["level"]})
        elif event["event"] == "progress":
            done = {f"progress/{name}": event[name] for name in ("done", "trained", "failed")}
            self._run.log({**done, "seconds": event["seconds"]})

    def close(self) -> None:
        """Sends or writes the rest."""
        self._run.finish()


LOGGERS: dict[str, Callable[[Path, str, Mapping[str, Any]], Logger]] = {"tensorboard": TensorBoard, "wandb": WandB}
"""By the name that `--log` takes, which is that of the package, too."""


class LoggerProcess:
    """A logger at work in a process of its own.

    Args:
        kind: a key of `LOGGERS`, or another function of folder, name and configuration that can be pickled.
        folder: the run's.
        name: of the run.
        config: the values of the setting, as JSON.

    Raises:
        SettingError, MissingExtraError: see `check_installed`.
    """

    def __init__(
        self,
        kind: str | Callable[[Path, str, Mapping[str, Any]], Logger],
        folder: Path,
        name: str,
        config: Mapping[str, Any],
    ):
        self.name, make = (kind, LOGGERS[kind]) if isinstance(kind, str) else (kind.__name__, kind)
        if isinstance(kind, str):
            check_installed(kind)
        context = multiprocessing.get_context("spawn")
        self._events = context.Queue()
        self._errors = context.SimpleQueue()
        arguments = (self._events, self._errors, make, folder, name, config)
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        with starting_processes():
            self._process.start()
        self._dropped = False

    def log(self, event: Mapping[str, Any]) -> None:
        """Hands an event over; returns at once."""
        if not self._dropped:
            self._events.put(event)

    def error(self) -> str | None:
        """The reason why the logger has ended, the first time it is asked for; None otherwise."""
        if self._dropped or self._process.is_alive():
            return None
        self._dropped = True
        told = "" if self._errors.empty() else self._errors.get()
        return told or f"its process ended with code {self._process.exitcode}"

    def close(self) -> str | None:
        """Ends the logger, in 15 seconds at most. Returns why it has not written everything, if so."""
        self.log(None)  # type: ignore[arg-type]
        if not self._dropped:
            self._process.join(_CLOSE_SECONDS)
        late = self._process.is_alive()
        if late:
            self._process.kill()
            self._process.join()
        self._events.cancel_join_thread()
        self._events.close()
        if late:
            self._dropped = True
            return f"it did not end in {_CLOSE_SECONDS:.0f} seconds; what it had not written is lost"
        return self.error() if self._process.exitcode else None


@naming_extras()
def check_installed(kind: str) -> None:
    """Raises a MissingExtraError unless the package of a logger is installed, a SettingError for an unknown one."""
    if kind not in LOGGERS:
        raise SettingError(f"unknown logger {kind!r}; expected any of {', '.join(LOGGERS)}")
    if find_spec(kind) is None:
        raise ModuleNotFoundError(name=kind)


def _work(events, errors, make: Callable[..., Logger], folder: Path, name: str, config: Mapping[str, Any]) -> None:
    """The logger's process. A signal to the run's group of processes must not end it before the run has."""
    os.dup2(2, 1)  # standard output may be lines of JSON
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    try:
        logger = make(folder, name, config)
        while parent is not None and parent.is_alive():
            try:
                event = events.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            if event is None:
                break
            logger.log(event)
        logger.close()
    except Exception as error:
        errors.put(f"{type(error).__name__}: {error}".partition("\n")[0])
        raise SystemExit(1) from None
