"""What a folder of results holds: its runs, its stored stages, who works on what, and what no run needs."""

import contextlib
import csv
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sparselt.errors import StoreError
from sparselt.files import holds_progress, naming_errors, read_object, write_json
from sparselt.runs.claims import FREEING, PATIENCE, Claims, holder, work_in
from sparselt.runs.store import Store, is_intact, read_record
from sparselt.runs.versions import check_format
from sparselt.stages.stage import Stage

_PLANS, _UNFINISHED, _DONE = "plans", "unfinished", "stage.json"
_PRESENCE = re.compile(r"run-(.+)-[0-9a-f]{8}")  # of `Store.present`
_BEGUN = re.compile(r"(.+)-([0-9a-f]{20})")  # of `Store.begin`


@dataclass(frozen=True)
class RunState:
    """One run in a folder of results.

    name: of its folder.
    state: `at work`; `done`; `failed`, if some of its stages failed; `stopped` before its end; `no report`, if its
        results are written and report.html is not; `deleted`, if it had ended and its folder is gone; `damaged`, if its
        record.json, ledger.csv or plan in the store cannot be read, or if it has no results.csv.
    made, stages: how many of its stages are in the store, and how many it has.
    changed: UTC time.
    """

    name: str
    state: Literal["at work", "done", "failed", "stopped", "no report", "deleted", "damaged"]
    made: int
    stages: int
    changed: str
    command: str = ""


@dataclass(frozen=True)
class StageState:
    """One stage of a run.

    stage: kind/key, its folder in the store. label: for a person.
    state: `made`; `at work`; `begun`, if a training was stopped and goes on from its save; `failed` or `skipped` in the
        run's last call; `to do`.
    """

    stage: str
    label: str
    state: Literal["made", "at work", "begun", "failed", "skipped", "to do"]


@dataclass(frozen=True)
class AtWork:
    """A stage that somebody works on: its label, and who that is. For a process that directs a run, stage is `run/…`
    and label is the run's name."""

    stage: str
    label: str
    host: str
    process: int
    job: str = ""


@dataclass(frozen=True)
class Unneeded:
    """What no run needs.

    stages: the folders of stored stages. begun: the folders of stages that were begun and not finished, with their
        saves. bytes: of the files of both.
    plans: the names of runs whose noted plans are of no use, as all that they name is gone or in `stages`.
    stopped: whether runs that were stopped before their end counted as needing nothing.
    """

    stages: list[Path] = field(default_factory=list)
    begun: list[Path] = field(default_factory=list)
    bytes: int = 0
    plans: list[str] = field(default_factory=list)
    stopped: bool = False

    def __bool__(self) -> bool:
        return bool(self.stages or self.begun or self.plans)


State = Literal["done", "failed", "stopped"]


def note_plan(store: Store, run: str, stages: Iterable[Stage], command: str, state: State) -> None:
    """Notes in the store what a run needs, so that its stages are known before it has a folder.

    state: of the run; `stopped` until it has ended.
    """
    place = store.root / _PLANS
    with naming_errors(str(place)):
        place.mkdir(exist_ok=True)
    labels = {f"{stage.kind}/{stage.key[:20]}": stage.name for stage in stages}
    write_json(place / f"{run}.json", {"command": command, "state": state, "stages": labels})


def is_unfinished(folder: Path) -> bool:
    """Whether a run was begun whose folder this is, and has not written its results."""
    folder = folder.resolve()
    return not (folder / "record.json").exists() and (folder.parent / "store" / _PLANS / f"{folder.name}.json").exists()


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
        check_format(self.root)

    def runs(self) -> list[RunState]:
        """Every run, by its name."""
        return [self._state(name) for name in sorted({*self._folders(), *self._plans()})]

    def at_work(self) -> list[AtWork]:
        """The stages that processes have claimed. One of another machine may have died a short while ago."""
        noted = [plan.get("stages") for plan in self._plans().values()]
        labels = {stage: label for stages in noted if isinstance(stages, dict) for stage, label in stages.items()}
        found = []
        for place in sorted(self.root.glob(f"{_UNFINISHED}/*-*")):
            who = holder(place)
            if who:
                stage = place.name.replace("-", "/", 1)
                directed = _PRESENCE.fullmatch(place.name)
                label, process = directed[1] if directed else labels.get(stage, ""), who.get("process")
                host, job = _printable(who.get("host", "")), _printable(who.get("job", ""))
                found.append(AtWork(stage, _printable(label), host, process if isinstance(process, int) else 0, job))
        return found

    def stages_of(self, name: str) -> list[StageState]:
        """The stages of a run by its noted plan, in their order; what an adaptive experiment will ask for is not in it.

        Raises:
            StoreError: there is no such run, or its plan cannot be read.
        """
        if name not in self._plans():
            known = ", ".join(run.name for run in self.runs()) or "none"
            raise StoreError(f"the store {self.root} has no plan of a run {name}; it has {known}")
        self._needs(name)
        lost = {}
        if name in self._folders():
            lost = {stage: status for stage, status in self._ledger(name).items() if status in ("failed", "skipped")}
        return [
            StageState(stage, _printable(label), self._state_of(stage, lost.get(stage)))
            for stage, label in self._plans()[name]["stages"].items()
        ]

    def stages(self) -> Iterator[Path]:
        """The folders of all stored stages."""
        for kind in sorted(self.root.iterdir()):
            if kind.name not in (_PLANS, _UNFINISHED) and kind.is_dir() and not kind.is_symlink():
                for folder in sorted(kind.iterdir()):
                    # Nothing else is of a store, and nothing outside of it is followed.
                    if re.fullmatch("[0-9a-f]{20}", folder.name) and folder.is_dir() and not folder.is_symlink():
                        yield folder

    def damaged(self, folders: Iterable[Path] | None = None) -> Iterator[Path]:
        """The files of stored stages whose size or checksum is not the noted one, and unreadable notes. Reads all."""
        for folder in self.stages() if folders is None else folders:
            files = read_record(folder / _DONE).get("files")
            if files is None:
                yield folder / _DONE
            for name in files or ():
                if not is_intact(folder / name):
                    yield folder / name

    def missing(self) -> list[Path]:
        """The stages that runs which are done had made, and that are gone."""
        done = [run.name for run in self.runs() if run.state == "done"]
        return sorted({self.root / stage for name in done for stage in self._missing(self._ledger(name))})

    def size(self) -> int:
        """Bytes that the store takes on the disk."""
        return _bytes(self.root)

    def unneeded(self, stopped: bool = False) -> Unneeded:
        """What no run here needs. stopped: count runs that were stopped before their end, too, as needing nothing.

        Saves that no plan names stay while a stopped run counts: they may be of stages that its results will ask for.
        """
        needed: set[str] = set()
        asks_for_more = False
        for name, plan in self._plans().items():
            if self._counts(name, plan, stopped):
                needed |= self._needs(name)
                asks_for_more |= plan.get("state") not in ("done", "failed")
        for name in self._folders():
            needed |= set(self._ledger(name))
        stages = [folder for folder in self.stages() if f"{folder.parent.name}/{folder.name}" not in needed]
        begun = [] if asks_for_more else [place for stage, place in self._begun() if stage not in needed]
        return self._found(stages, begun, stopped)

    def free(self, unneeded: Unneeded, patience: float = PATIENCE) -> Unneeded:
        """Deletes what `unneeded` found and no run needs since, and the plans of such runs. Returns what was deleted.

        patience: seconds to wait for a sign of life from a process on another machine that has claimed something.

        A run that begins meanwhile waits.

        Raises:
            StoreError: a run is at work in the store, which may need it; or the store cannot be written.
        """
        claims = Claims(self.root / _UNFINISHED, patience)
        with naming_errors(f"store {self.root}", advice="make it writable"):
            freeing = claims.take(FREEING)
        if freeing is None:
            raise StoreError(f"another process deletes what no run needs in {self.root}; wait until it has ended")
        try:
            return self._freed(unneeded, claims)
        finally:
            freeing.leave(keep=False)

    def _freed(self, unneeded: Unneeded, claims: Claims) -> Unneeded:
        self._check_idle(claims)
        now = self.unneeded(unneeded.stopped)  # a run may have ended since
        stages = [folder for folder in now.stages if folder in unneeded.stages]
        begun = [place for place in now.begun if place in unneeded.begun]
        freed = self._found(stages, begun, unneeded.stopped)
        self._check_idle(claims)  # a network file system may show late who has begun before this
        for folder in stages:
            (folder / _DONE).unlink(missing_ok=True)  # first: what is left if this is interrupted counts as missing
        for folder in stages:
            shutil.rmtree(folder, ignore_errors=True)
        for place in begun:
            if claim := claims.take(place.name):
                claim.leave(keep=False)
        for name in freed.plans:
            self._plan_file(name).unlink(missing_ok=True)
        return freed

    def _found(self, stages: list[Path], begun: list[Path], stopped: bool) -> Unneeded:
        """What no run needs, with the plans that are of no use without it."""
        gone = {f"{folder.parent.name}/{folder.name}" for folder in stages}
        plans = []
        for name, plan in self._plans().items():
            stages_of = plan.get("stages")
            planned = set(stages_of) if isinstance(stages_of, dict) else set()
            if not self._counts(name, plan, stopped) and planned and planned <= gone | self._missing(planned):
                plans.append(name)
        return Unneeded(stages, begun, sum(map(_bytes, stages + begun)), plans, stopped)

    def _counts(self, name: str, plan: dict[str, Any], stopped: bool) -> bool:
        """Whether a run needs the stages of its plan: it has a folder, or goes on. stopped: as for `unneeded`."""
        return name in self._folders() or not (plan.get("state") == "done" or stopped)

    def _begun(self) -> Iterator[tuple[str, Path]]:
        """The stages that were begun and that nobody works on, and their folders."""
        for place in sorted(self.root.glob(f"{_UNFINISHED}/*-*")):
            name = _BEGUN.fullmatch(place.name)
            if name and not place.is_symlink() and work_in(place) and not holder(place):
                yield f"{name[1]}/{name[2]}", place

    def _check_idle(self, claims: Claims) -> None:
        """Raises StoreError if somebody works in the store."""
        for place in sorted(self.root.glob(f"{_UNFINISHED}/*-*")):
            if claims.shows_life(place.name):
                who = holder(place)
                raise StoreError(
                    f"process {who.get('process')} on {_printable(who.get('host'))} works on {place.name}; wait until "
                    "no run uses the store"
                )

    def _state(self, name: str) -> RunState:
        folder, plan = self.out / name, self._plans().get(name)
        record = read_object(folder / "record.json")
        path = folder / "record.json" if name in self._folders() else self._plan_file(name)
        command = str((record or plan or {}).get("command", ""))
        try:
            stages = set(self._ledger(name)) if name in self._folders() else self._needs(name)
            state: Any = "done" if record and (folder / "results.csv").is_file() else "damaged"
        except StoreError:
            stages, state = set(), "damaged"
        if state == "done" and record.get("failed"):
            state = "failed"
        elif state == "done" and not (folder / "report.html").is_file():
            state = "no report"
        if name not in self._folders() and plan:
            state = "deleted" if plan.get("state") == "done" else plan.get("state", "stopped")
        if any(holder(place) for place in self.root.glob(f"{_UNFINISHED}/run-{name}-*")):
            state = "at work"
        return RunState(name, state, len(stages) - len(self._missing(stages)), len(stages), _time(path), command)

    def _state_of(self, stage: str, lost: Any) -> Any:
        if self._made(stage):
            return "made"
        place = self.root / _UNFINISHED / stage.replace("/", "-", 1)
        if holder(place):
            return "at work"
        work = work_in(place)
        return "begun" if work and holds_progress(work) else lost or "to do"

    def _missing(self, stages: Iterable[str]) -> set[str]:
        return {stage for stage in stages if not self._made(stage)}

    def _made(self, stage: str) -> bool:
        try:
            return (self.root / stage / _DONE).exists()
        except (OSError, ValueError):  # a damaged plan may hold names that no file system takes
            return False

    def _plan_file(self, name: str) -> Path:
        return self.root / _PLANS / f"{name}.json"

    def _needs(self, name: str) -> set[str]:
        """The stages of a run's plan in the store; StoreError if it cannot be read."""
        stages = self._plans()[name].get("stages")
        if not isinstance(stages, dict):
            raise StoreError(
                f"{self._plan_file(name)} is damaged, and so it is not known what the run needs; run its command "
                "again, or delete the file"
            )
        return set(stages)

    def _folders(self) -> list[str]:
        return sorted(path.parent.name for path in self.out.glob("*/record.json"))

    def _plans(self) -> dict[str, dict[str, Any]]:
        """The plans of runs by their names; an empty one cannot be read."""
        return {path.stem: read_object(path) for path in sorted(self.root.glob(f"{_PLANS}/*.json"))}

    def _ledger(self, name: str) -> dict[str, str]:
        """The stages of a run that has ended, and their status."""
        try:
            with (self.out / name / "ledger.csv").open(newline="") as file:
                rows = csv.DictReader(file, strict=True)
                stages = {f"{row['kind']}/{row['stage'][:20]}": row["status"] for row in rows}
            if not stages:
                raise ValueError("it names no stage")
            return stages
        except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
            raise StoreError(
                f"{self.out / name / 'ledger.csv'} cannot be read ({error}), and so it is not known what the run "
                "needs; run its command again, or delete its folder"
            ) from error


def _printable(text: object) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(text))[:200]


def _bytes(folder: Path) -> int:
    paths = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):  # a run beside this may move it at any moment
            total += 512 * path.lstat().st_blocks  # on the disk: decoded pixels have holes
    return total


def _time(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
