"""What a run leaves: results, record, ledger and report, and what it says of stages that failed."""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from sparselt.errors import StoreError
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.networks import network_rows
from sparselt.experiments.planning import PlannedRun
from sparselt.experiments.record import dataset_of, run_record
from sparselt.experiments.rounds import plan_of
from sparselt.experiments.setting import Setting
from sparselt.experiments.where import Where
from sparselt.report import report
from sparselt.report.data import Sections
from sparselt.report.wording import count, verb
from sparselt.runs.inventory import note_plan
from sparselt.runs.ledger import Entry, with_densities, write_ledger
from sparselt.runs.networks import NetworkRow, write_networks


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run: its folder (None if nothing was written) and the labels of failed stages."""

    folder: Path | None
    failed: tuple[str, ...] = ()


def conclude(
    planned: PlannedRun,
    measurements: Sequence[Measurement],
    entries: Sequence[Entry],
    usual: Setting,
    sections: Sections,
    where: Where,
    console: Console,
) -> Outcome:
    """Writes the folder of a run whose stages have been made, draws its report, and says what failed.

    Args:
        measurements: all of them.
        entries: the ledger of their stages.
        usual: the setting at its default scale, for the sources of its numbers.
        sections: of the report.

    Raises:
        StoreError: the folder cannot be written. Every stage is kept.
    """
    setting, store, lab = planned.setting, planned.store, planned.lab
    lost = {entry.stage for entry in entries if entry.status in ("failed", "skipped")}
    failed = tuple(entry.label for entry in entries if entry.status == "failed")
    for label in failed:
        console.print(f"failed: {label}", style="red", markup=False, highlight=False)
    kept = [m for m in measurements if not any(stage.key in lost for stage in m.stages)]
    stages = plan_of(measurements).stages
    if not kept:
        console.print("nothing could be measured: every stage needed one that failed", style="red")
        console.print(_advice(entries), style="red")
        note_plan(store, planned.name, stages, where.command, "failed")
        return Outcome(None, failed)
    from sparselt.data.contact_sheet import write_contact_sheet
    from sparselt.report.run import SAMPLES

    record = run_record(setting, usual, where.device, lab, store)
    record["experiments"] = {name: {"title": e.title, "paper": e.paper} for name, e in planned.experiments.items()}
    folder = where.out / planned.name
    rows = [{"setting": setting.name, "scale": setting.scale, **row} for m in kept for row in m.rows(store.read)]
    entries = with_densities(entries, stages, store)
    of_this_call = {"command": where.command, "failed": list(failed), "rows": len(rows)}
    networks = network_rows(measurements, lost, lab, store, folder)
    try:
        _write(folder, rows, record, of_this_call, entries, networks)
        write_contact_sheet(dataset_of(lab, store), "train", folder / SAMPLES, columns=5)
        note_plan(store, planned.name, stages, where.command, "failed" if failed else "done")
        report(folder, console, sections)
    except StoreError as error:
        raise StoreError(
            f"{str(error).rstrip('.')}; every stage is kept, and the same command writes the results and the report"
        ) from error
    if failed:
        skipped = sum(entry.status == "skipped" for entry in entries)
        console.print(
            f"\n{count(len(failed), 'stage')} failed, and {skipped} that {verb(skipped, 'needs', 'need')} "
            f"{verb(len(failed), 'it', 'them')} {verb(skipped, 'was', 'were')} skipped; the rest is kept. "
            f"{_advice(entries)}",
            style="red",
        )
    return Outcome(folder, failed)


def _advice(entries: Iterable[Entry]) -> str:
    """What to do about the stages that failed."""
    again = {entry.repeats for entry in entries if entry.status == "failed"}
    diverged = "A training that diverged does so again: change its setting."
    if again == {True}:
        return diverged
    return "The same command tries again what failed." + (f" {diverged}" if True in again else "")


def _write(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    record: Mapping[str, Any],
    of_this_call: Mapping[str, Any],
    entries: Iterable[Entry],
    networks: Iterable[NetworkRow],
) -> None:
    from sparselt.report.results import write_results, write_text
    from sparselt.report.run import rules_record

    record = {**record, "rules": rules_record(folder)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_results(folder, rows, record)
        text = json.dumps({**record, **of_this_call}, indent=1, ensure_ascii=False)
        write_text(folder / "record.json", text + "\n")
        write_ledger(entries, folder / "ledger.csv")
        write_networks(networks, folder)
    except OSError as error:
        raise StoreError(
            f"run folder {folder} cannot be written ({error.strerror}); choose another with --out"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # an empty folder only
