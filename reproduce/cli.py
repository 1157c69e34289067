"""The command line of `python -m sparselt.reproduce`: options, and how errors reach a person."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sparselt.errors import SettingError, SparseltError
from sparselt.reproduce import DEFAULT_SCALES, SCALES


@dataclass(frozen=True)
class Options:
    """Reproduce a paper's experiments: iterative magnitude pruning, its controls, the connectivity of its solutions."""

    setting: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SETTING")] = ""
    """Which setting to run; see --list."""
    experiments: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Which experiments to run, by name; all that apply if none is given. main: each paper's main finding only."""
    scale: Annotated[str | None, tyro.conf.arg(metavar="paper|mini|smoke")] = None
    """paper: the exact protocol; mini: the same with fewer steps, levels, replicates; smoke: every stage in minutes."""
    replicates: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Independent repetitions."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Everything random follows from it."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Other values of the setting, such as lr=0.1 rewind_steps=0,2ep."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of betons to use, made by `sparselt data write`."""
    out: Path = field(default_factory=lambda: Path("runs"))
    """Folder for results; what stands there is found again."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Worker processes; by default the cores divided by the threads of a training (cuda: one a GPU)."""
    cohort: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Equal trainings that a worker makes side by side, with equal results; by default 1 (cuda: measured)."""
    dry_run: bool = False
    """Print the plan and stop."""
    list: bool = False
    """Show the settings and experiments and stop."""
    command: tyro.conf.Suppress[str] = ""
    """What was called, for the record."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, 2 for bad input, 1 for a stage that failed, 130 when interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(
        Options, args=arguments, prog="python -m sparselt.reproduce", config=(tyro.conf.FlagCreatePairsOff,)
    )
    try:
        if options.list:
            return _list()
        if not options.setting:
            raise SettingError(f"no setting given; expected one of {', '.join(DEFAULT_SCALES)} (see --list)")
        from sparselt.reproduce.run import reproduce

        return reproduce(dataclasses.replace(options, command=_command(given)))
    except SparseltError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; what had finished is kept: the same command goes on from there", file=sys.stderr)
        return 130


def _command(given: Sequence[str]) -> str:
    """What to type for the same run: an own script, whose experiments the module does not know, by its name."""
    from sparselt.runs.program import own_script

    script = own_script()
    return shlex.join(["python", script, *sys.argv[1:]] if script else ["python", "-m", "sparselt.reproduce", *given])


def _list() -> int:
    from rich.console import Console
    from rich.table import Table

    from sparselt.experiments import EXPERIMENTS
    from sparselt.reproduce import load_setting

    console = Console()
    table = Table(title="Settings", title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("setting", "scale", "steps", "levels", "rewind to", "runs", "data"):
        table.add_column(name, no_wrap=name != "rewind to", overflow="fold")
    for name, default in DEFAULT_SCALES.items():
        for scale in SCALES:
            setting = load_setting(name, scale)
            table.add_row(
                name,
                f"{scale}*" if scale == default else scale,
                f"{setting.steps:,}",
                str(setting.levels),
                " · ".join(map(str, setting.rewind_steps)),
                str(setting.replicates),
                "--data" if setting.source is None else setting.source.kind,
            )
    console.print(table)
    console.print("* the default; runs: replicates; rewind to and steps: optimizer steps\n", highlight=False)
    table = Table(title="Experiments", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("experiment", no_wrap=True)
    table.add_column("what it measures")
    table.add_column("papers")
    for name, experiment in EXPERIMENTS.items():
        table.add_row(name, experiment.title, experiment.paper)
    console.print(table)
    return 0
