"""What a folder of results holds: its runs, its stored stages, who works on what, and what no run needs."""

import csv
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sparselt.errors import StoreError
from sparselt.files import write_json
from sparselt.runs.claims import holder
from sparselt.runs.store import Store, is_intact, read_record
from sparselt.stages.stage import Stage

_PLANS, _UNFINISHED, _DONE = "plans", "unfinished", "stage.json"


@dataclass(frozen=True)
class RunState:
    """One run in a folder of results.

    name: of its folder.
    state: `done`; `failed`, if some of its stages failed; `stopped`, before its end or still at work; `damaged`, if its
        record.json or ledger.csv cannot be read.
    made, stages: how many of its stages are in the store, and how many it has.
    changed: UTC time.
    """

    name: str
    state: Literal["done", "failed", "stopped", "damaged"]
    made: int
    stages: int
    changed: str
    command: str = ""


@dataclass(frozen=True)
class AtWork:
    """A stage that somebody works on: its label, and who that is."""

    stage: str
    label: str
    host: str
    process: int
    job: str = ""


@dataclass(frozen=True)
class Unneeded:
    """Stages that no run needs, as paths, and the bytes of their files."""

    stages: list[Path] = field(default_factory=list)
    bytes: int = 0


def note_plan(store: Store, run: str, stages: Iterable[Stage], command: str, done: bool) -> None:
    """Notes in the store what a run needs, so that its stages are known before it has a folder."""
    place = store.root / _PLANS
    place.mkdir(exist_ok=True)
    labels = {f"{stage.kind}/{stage.key[:20]}": stage.name for stage in stages}
    write_json(place / f"{run}.json", {"command": command, "done": done, "stages": labels})


class Inventory:
    """The runs in a folder and their store, read without writing.

    Args:
        out: the folder given as --out.

    Raises:
        StoreError: it has no store.
    """

    def __init__(self, out: str | Path):
        self.out = Path(out)
        self.root = self.out / "store"
        if not self.root.is_dir():
            raise StoreError(f"{out} holds no store; name the folder that a run had as --out (runs, if it had none)")

    def runs(self) -> list[RunState]:
        """Every run, by its name."""
        return [self._state(name) for name in sorted({*self._folders(), *self._plans()})]

    def at_work(self) -> list[AtWork]:
        """The stages that processes have claimed. One of another machine may have died a short while ago."""
        labels = {stage: label for plan in self._plans().values() for stage, label in plan["stages"].items()}
        found = []
        for place in sorted(self.root.glob(f"{_UNFINISHED}/*-*")):
            who = holder(place)
            if who:
                stage = place.name.replace("-", "/", 1)
                label, process = labels.get(stage, ""), who.get("process")
                host, job = str(who.get("host", "")), str(who.get("job", ""))
                found.append(AtWork(stage, label, host, process if isinstance(process, int) else 0, job))
        return found

    def stages(self) -> Iterator[Path]:
        """The folders of all stored stages."""
        for kind in sorted(self.root.iterdir()):
            if kind.is_dir() and kind.name not in (_PLANS, _UNFINISHED):
                yield from (folder for folder in sorted(kind.iterdir()) if folder.is_dir())

    def damaged(self, folders: Iterable[Path] | None = None) -> Iterator[Path]:
        """The files of stored stages whose size or checksum is not the noted one, and unreadable notes. Reads all."""
        for folder in self.stages() if folders is None else folders:
            files = read_record(folder / _DONE).get("files")
            if files is None:
                yield folder / _DONE
            for name in files or ():
                if not is_intact(folder / name):
                    yield folder / name

    def size(self) -> int:
        """Bytes of the store."""
        return _bytes(self.root)

    def unneeded(self, stopped: bool = False) -> Unneeded:
        """What no run here needs. stopped: count runs that were stopped before their end, too, as needing nothing."""
        needed: set[str] = set()
        for name, plan in self._plans().items():
            if name in self._folders() or not (plan["done"] or stopped):
                needed |= plan["stages"].keys()
        for name in self._folders():
            needed |= set(self._ledger(name))
        stages = [folder for folder in self.stages() if f"{folder.parent.name}/{folder.name}" not in needed]
        return Unneeded(stages, sum(map(_bytes, stages)))

    def free(self, unneeded: Unneeded) -> None:
        """Deletes what `unneeded` found, and the plans of runs whose folders are gone.

        Raises:
            StoreError: a run is at work in the store, which may need it.
        """
        if busy := self.at_work():
            raise StoreError(
                f"process {busy[0].process} on {busy[0].host} works on {busy[0].label or busy[0].stage}; "
                "wait until no run uses the store"
            )
        gone = {f"{folder.parent.name}/{folder.name}" for folder in unneeded.stages}
        for folder in unneeded.stages:
            (folder / _DONE).unlink(missing_ok=True)  # first: what is left if this is interrupted counts as missing
            shutil.rmtree(folder, ignore_errors=True)
        for name, plan in self._plans().items():
            if name not in self._folders() and plan["stages"].keys() <= gone | self._missing(plan):
                (self.root / _PLANS / f"{name}.json").unlink(missing_ok=True)

    def _state(self, name: str) -> RunState:
        plan = self._plans().get(name)
        if name not in self._folders():
            assert plan is not None, "a run has a folder or a plan"
            path = self.root / _PLANS / f"{name}.json"
            made = len(plan["stages"]) - len(self._missing(plan))
            return RunState(name, "stopped", made, len(plan["stages"]), _time(path), plan["command"])
        path = self.out / name / "record.json"
        record = _json(path)
        try:
            ledger = self._ledger(name)
        except StoreError:
            return RunState(name, "damaged", 0, 0, _time(path), str(record.get("command", "")))
        made = sum((self.root / stage / _DONE).exists() for stage in ledger)
        state: Literal["done", "failed", "damaged"] = "damaged" if not record else "done"
        if record.get("failed"):
            state = "failed"
        return RunState(name, state, made, len(ledger), _time(path), str(record.get("command", "")))

    def _missing(self, plan: dict[str, Any]) -> set[str]:
        return {stage for stage in plan["stages"] if not (self.root / stage / _DONE).exists()}

    def _folders(self) -> list[str]:
        return sorted(path.parent.name for path in self.out.glob("*/record.json"))

    def _plans(self) -> dict[str, dict[str, Any]]:
        plans = {path.stem: _json(path) for path in sorted(self.root.glob(f"{_PLANS}/*.json"))}
        for plan in plans.values():
            if not isinstance(plan.get("stages"), dict):
                plan["stages"] = {}
            plan.setdefault("done", False)
            plan.setdefault("command", "")
        return plans

    def _ledger(self, name: str) -> list[str]:
        try:
            with (self.out / name / "ledger.csv").open(newline="") as file:
                stages = [f"{row['kind']}/{row['stage'][:20]}" for row in csv.DictReader(file, strict=True)]
            if not stages:
                raise ValueError("it names no stage")
            return stages
        except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
            raise StoreError(
                f"{self.out / name / 'ledger.csv'} cannot be read ({error}), and so it is not known what the run "
                "needs; run its command again, or delete its folder"
            ) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _bytes(folder: Path) -> int:
    paths = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return sum(path.stat().st_size for path in paths if path.exists())


def _time(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
