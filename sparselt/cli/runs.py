"""`sparselt runs`: what a folder of results holds, and what it could do without."""

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from sparselt.cli.terminal import print_table, say

if TYPE_CHECKING:
    from sparselt.runs.inventory import Unneeded

_COLUMNS = ("experiment", "variant", "condition", "replicate", "rewind_step", "level", "weights")

_OUT = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]


def _runs() -> Path:
    return Path("runs")


@dataclass(frozen=True)
class List:
    """List the runs in a folder of results, the size of their store, and who works on what."""

    out: _OUT = field(default_factory=_runs)
    """The folder given to the runs as --out."""
    json: bool = False
    """Print JSON, for scripts."""

    def run(self, given: Sequence[str]) -> int:
        """Runs the command; returns the exit code."""
        from sparselt.runs.inventory import Inventory

        inventory = Inventory(self.out)
        runs, busy, size = inventory.runs(), inventory.at_work(), inventory.size()
        if self.json:
            _print_json({"runs": list(map(asdict, runs)), "at_work": list(map(asdict, busy)), "store_bytes": size})
            return 0
        lines = [
            (run.name, run.state, f"{run.made} of {run.stages}", run.changed[:16].replace("T", " ")) for run in runs
        ]
        print_table(("run", "state", "stages made", "changed (UTC)"), lines, spare=("changed (UTC)",), cut="run")
        print()
        say(f"The store, {inventory.root}, has {_size(size)}.")
        for work in busy:
            job = f", job {work.job}" if work.job else ""
            what = f"directs {work.label}" if work.stage.startswith("run/") else f"works on {work.label or work.stage}"
            say(f"process {work.process} on {work.host}{job} {what}", indent="  ")
        for run in runs:
            if run.state == "no report":
                print(f"{run.name} has results and no report, which its command draws: {run.command}")
            elif run.state == "damaged" and run.command:
                print(f"{run.name} is damaged; its command writes it again: {run.command}")
        return 0


@dataclass(frozen=True)
class Show:
    """Show the networks of a run with the files of their weights and masks; of a run that has not ended, its stages."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """The run's folder, as `runs list` names it, whether it exists yet or not."""
    replicate: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Only this one; counted from 0."""
    rewind_step: Annotated[int | None, tyro.conf.arg(metavar="STEP")] = None
    """Only networks rewound to this step."""
    level: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Only this one; 0 is the dense network."""
    variant: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Only these, such as imp, dense, random."""
    stages: bool = False
    """List the run's stages instead, and what has become of each."""
    json: bool = False
    """Print JSON, for scripts."""

    def run(self, given: Sequence[str]) -> int:
        """Runs the command; returns the exit code: 1 if no network fits."""
        from sparselt.runs.folder import Run
        from sparselt.runs.inventory import is_unfinished

        chosen = (self.replicate, self.rewind_step, self.level, self.variant)
        if self.stages or (is_unfinished(self.folder) and chosen == (None,) * 4):
            return self._show_stages()
        run = Run(self.folder)
        rows = run.fitting(self.replicate, self.rewind_step, self.level, self.variant)
        found = [
            {**asdict(row), **{name: str(run.place(path)) if path else "" for name, path in _files(row)}}
            for row in rows
        ]
        missing = [path for row in found for path in (row["weights"], row["mask"]) if path and not Path(path).exists()]
        if self.json:
            _print_json(found)
        elif found and None not in chosen:
            for path in dict.fromkeys(path for row in found for path in (row["weights"], row["mask"]) if path):
                print(path)
        elif found:
            self._print_networks(found)
        if not found:
            print(f"no network fits; {run.there(self.variant or 'imp')}", file=sys.stderr)
        if missing:
            print(
                f"missing: {len(missing)} files, {missing[0]} first; the run's command makes them again",
                file=sys.stderr,
            )
        return 1 if missing or not found else 0

    def _print_networks(self, found: Sequence[dict[str, Any]]) -> None:
        rows = [{**row, "weights": os.path.relpath(row["weights"])} for row in found]
        columns = [name for name in _COLUMNS if name != "condition" or any(row[name] for row in rows)]
        lines = [["" if row[name] is None else str(row[name]) for name in columns] for row in rows]
        print_table(columns, lines, spare=("weights",), cut="condition" if "condition" in columns else "variant")
        say("The files of one network: --replicate, --rewind-step, --level and --variant.")

    def _show_stages(self) -> int:
        from sparselt.runs.inventory import Inventory

        folder = self.folder.resolve()
        inventory, name = Inventory(folder.parent), folder.name
        stages = inventory.stages_of(name)
        state = next(run.state for run in inventory.runs() if run.name == name)
        if self.json:
            _print_json({"run": name, "state": state, "stages": list(map(asdict, stages))})
            return 0
        if self.stages:
            lines = [(stage.state, stage.label, stage.stage) for stage in stages]
            print_table(("state", "label", "stage"), lines, spare=("stage",), cut="label")
            return 0
        counted = Counter((stage.stage.partition("/")[0], stage.state) for stage in stages)
        states = list(dict.fromkeys(stage.state for stage in stages))
        counts = [
            (kind, *(str(counted[kind, state] or "") for state in states))
            for kind in dict.fromkeys(kind for kind, _ in counted)
        ]
        print_table(("kind", *states), counts, spare=(), cut="kind")
        print()
        say(f"{name}: {state}. --stages lists each; networks are shown once it is done.")
        return 0


@dataclass(frozen=True)
class Export:
    """Write a trained network into a new folder: weights, mask, a program that torch runs, and a model card."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """The run's folder."""
    to: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="NEW")]
    """The folder to write; it does not exist yet."""
    replicate: Annotated[int, tyro.conf.arg(metavar="N")]
    """The replicate; counted from 0."""
    level: Annotated[int, tyro.conf.arg(metavar="N")]
    """The level; 0 is the dense network."""
    rewind_step: Annotated[int | None, tyro.conf.arg(metavar="STEP")] = None
    """The rewind step; only the dense network has none."""
    variant: Annotated[str, tyro.conf.arg(metavar="NAME")] = "imp"
    """As in results.csv."""
    experiment: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Where several experiments have such a network."""
    condition: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """As in results.csv, where several networks differ in it."""
    onnx: bool = False
    """Write model.onnx, too (pip install sparselt[onnx])."""
    measure: bool = True
    """Time inference on this machine, for the model card."""

    def run(self, given: Sequence[str]) -> int:
        """Runs the command; returns the exit code."""
        from sparselt.runs.folder import Run

        asked = (self.replicate, self.rewind_step, self.level, self.variant, self.experiment, self.condition)
        ticket = Run(self.folder).ticket(*asked)
        print(ticket.export(self.to, onnx=self.onnx, measure=self.measure))
        return 0


@dataclass(frozen=True)
class Verify:
    """Compare every file of the store with its checksum."""

    out: _OUT = field(default_factory=_runs)
    """The folder given to the runs as --out."""
    json: bool = False
    """Print JSON, for scripts."""

    def run(self, given: Sequence[str]) -> int:
        """Runs the command; returns the exit code: 1 if a file is damaged."""
        from sparselt.runs.inventory import Inventory

        inventory = Inventory(self.out)
        stages = list(inventory.stages())
        damaged, missing = list(map(str, inventory.damaged(stages))), list(map(str, inventory.missing()))
        if self.json:
            _print_json({"stages": len(stages), "damaged": damaged, "missing": missing})
        else:
            for what, paths in (("damaged", damaged), ("missing", missing)):
                for path in paths:
                    print(f"{what}: {path}")
            print(f"{len(stages)} stages, {len(damaged)} damaged files, {len(missing)} missing stages.")
            if damaged or missing:
                print("The next run that needs them makes them anew.")
        return 1 if damaged or missing else 0


@dataclass(frozen=True)
class Gc:
    """Delete stored stages and saves that no run in the folder needs. Says what it would free, and asks."""

    out: _OUT = field(default_factory=_runs)
    """The folder given to the runs as --out."""
    yes: bool = False
    """Do not ask."""
    stopped: bool = False
    """Also delete what only stopped runs need, and their saves. Their commands will then start from the beginning."""
    json: bool = False
    """Print JSON, for scripts. Without --yes nothing is deleted."""

    def run(self, given: Sequence[str]) -> int:
        """Runs the command; returns the exit code."""
        from sparselt.runs.inventory import Inventory

        inventory = Inventory(self.out)
        unneeded = inventory.unneeded(self.stopped)
        if self.json:
            if self.yes:
                unneeded = inventory.free(unneeded)
            stages, begun = list(map(str, unneeded.stages)), list(map(str, unneeded.begun))
            found = {"stages": stages, "begun": begun, "plans": unneeded.plans, "bytes": unneeded.bytes}
            _print_json({**found, "deleted": self.yes})
            return 0
        if not unneeded:
            print("Every stored stage is needed by a run.")
            return 0
        which = "run that has ended" if self.stopped else "run"
        say(f"No {which} needs {_counted(unneeded)}: {_size(unneeded.bytes)}.")
        if not self.yes and not _agreed():
            print("Nothing was deleted.")
            return 0
        freed = inventory.free(unneeded)
        if freed == unneeded:
            print("Deleted.")
        elif freed:
            say(f"Deleted {_counted(freed)}: {_size(freed.bytes)}. A run needs the rest by now.")
        else:
            print("Nothing was deleted: a run needs all of it by now.")
        return 0


def _counted(unneeded: "Unneeded") -> str:
    """What would be deleted: `3 stages (1 prune, 2 train) and the saves of 1 unfinished stage`."""
    kinds = [folder.parent.name for folder in unneeded.stages]
    by_kind = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    stages = [f"{_stages(len(kinds))} ({by_kind})"] if kinds else []
    begun = [f"the saves of {_stages(len(unneeded.begun), 'unfinished ')}"] if unneeded.begun else []
    found = stages + begun
    return " and ".join(found) if found else f"the noted plan of {', '.join(unneeded.plans)}"


def _stages(count: int, which: str = "") -> str:
    return f"{count} {which}stage{'' if count == 1 else 's'}"


def _agreed() -> bool:
    try:
        return input("Delete them? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def _files(row: Any) -> tuple[tuple[str, str], ...]:
    return ("weights", row.weights), ("mask", row.mask)


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=1, ensure_ascii=False))


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
