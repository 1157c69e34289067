"""`sparselt reproduce`, also `python -m sparselt.reproduce`: parses the options and starts the run."""

import dataclasses
import gc
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sparselt import own
from sparselt.cli.main import run_command
from sparselt.errors import SettingError
from sparselt.reproduce import SCALES, SETTINGS, default_scale, load_setting
from sparselt.stopping import STOPPED, Terminated, ending_with_its_code


@dataclass(frozen=True)
class Reproduce:
    """Reproduce a paper's experiments: iterative magnitude pruning, its controls, the connectivity of its solutions."""

    setting: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SETTING")] = ""
    """Which setting to run; see --list."""
    experiments: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Which experiments to run, by name; all that apply if none is given. main: each paper's main finding only."""
    scale: Annotated[str | None, tyro.conf.arg(metavar="paper|mini|smoke")] = None
    """paper: the papers' protocol; mini: with fewer steps, levels, replicates; smoke: every stage in minutes."""
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
    executor: Literal["local", "ray"] = "local"
    """Who runs the plan: processes of this machine, or the nodes of a Ray cluster (pip install 'sparselt[ray]')."""
    ray_address: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT|auto")] = None
    """With --executor ray: the cluster; by default the run starts a Ray of its own, on this machine only."""
    gpu_share: Annotated[float, tyro.conf.arg(metavar="SHARE")] = 1.0
    """With --executor ray and --device cuda: the part of a GPU that a training takes."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Stages at a time; by default the cores divided by the threads of a training (cuda: one a GPU)."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """CPU threads of each training; they decide its bits. By default 1, or more where a plan leaves cores idle."""
    cohort: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Equal trainings that a worker makes side by side, with equal results; by default 1 (cuda: measured)."""
    save_minutes: Annotated[float, tyro.conf.arg(metavar="MINUTES")] = 10.0
    """How often a training saves its progress; a run that was killed goes on from there."""
    patience: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 120.0
    """Several runs may share --out. One that shows no sign of life for so long loses the work it had begun."""
    gpus: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """With --dry-run: simulate the plan on up to so many GPUs."""
    images_per_second: Annotated[float | None, tyro.conf.arg(metavar="R")] = None
    """With --gpus: what one of them trains, as you assume."""
    ranks: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Processes that train each network together, each on its share of every batch."""
    log: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Log each finished training and the progress, too, with these; they need the extra `loggers`."""
    json: bool = False
    """Print progress as lines of JSON, for scripts; the text for a person goes to standard error."""
    dry_run: bool = False
    """Print the plan, how long it would take and where results would go, and stop."""
    protocol: bool = False
    """Print every value of the setting with its source, and stop; with --dry-run the plan, too."""
    list: bool = False
    """Show the settings and experiments and stop."""

    @classmethod
    def check_given(cls, given: Sequence[str]) -> None:
        """Raises a SettingError for a value of a setting that is given as an option, such as `--lr 0.1`."""
        options = {f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(cls)}
        for place, argument in enumerate(given):
            option, equals, text = argument.partition("=")
            if not option.startswith("--") or option.replace("_", "-") in options:
                continue
            from sparselt.experiments import known_experiments
            from sparselt.experiments.setting import Setting
            from sparselt.experiments.values import rules

            name = option[2:].replace("-", "_")
            kinds = [Setting, *(e.options for e in known_experiments().values() if e.options is not None)]
            if any(name in rules(kind) for kind in kinds):
                value = text if equals else " ".join(given[place + 1 : place + 2])
                raise SettingError(f"{option} is a value of a setting; expected --set {name}={value}")

    def run(self, given: Sequence[str]) -> int:
        """Runs the command; returns the exit code: 1 for a stage that failed, 130 after Ctrl-C, 143 after SIGTERM."""
        if self.list:
            return _list(self.json)
        if not self.setting:
            raise SettingError(f"no setting given; expected one of {', '.join(SETTINGS)} (see --list)")
        command = _command(given)
        try:
            with ending_with_its_code():
                return self._reproduce(command)
        except KeyboardInterrupt as stopped:
            kept = f"; what had been done is kept, and this command goes on from there:\n{command}"
            print(f"\nstopped{'' if self.dry_run or self.protocol else kept}", file=sys.stderr)
            return STOPPED if isinstance(stopped, Terminated) else 130

    def _reproduce(self, command: str) -> int:
        # A plan is many small objects without cycles. Looking for these takes a twentieth of the time of a redraw.
        gc.set_threshold(50_000)
        from sparselt.cli.console import LastingConsole
        from sparselt.experiments import known_experiments
        from sparselt.experiments.events import JsonLines
        from sparselt.experiments.planning import chosen
        from sparselt.experiments.run import run
        from sparselt.experiments.where import Where
        from sparselt.stages.gang import leading

        setting = load_setting(self.setting, self.scale)
        if "main" in self.experiments:
            setting = setting.changed(**setting.main_values)
        _check_no_setting(self.set)
        values = {name: value for name in ("replicates", "seed", "ranks") if (value := getattr(self, name)) is not None}
        before = dataclasses.replace(setting, **values)
        setting = before.with_values(self.set).noting_given(before).checked()
        told = any(assignment.startswith("threads=") for assignment in self.set)
        for name in ("replicates", "seed", "ranks", "threads"):
            if getattr(self, name) is not None and any(text.startswith(f"{name}=") for text in self.set):
                raise SettingError(f"{name} is given twice, by --{name} and by --set; expected one value")
        experiments, left_out = chosen(self.experiments, known_experiments(), setting)
        where = Where(
            data=self.data,
            out=self.out,
            device=self.device,
            executor=self.executor,
            ray_address=self.ray_address,
            gpu_share=self.gpu_share,
            workers=self.workers,
            cohort=self.cohort,
            command=command,
            save_minutes=self.save_minutes,
            patience=self.patience,
            gpus=self.gpus,
            images_per_second=self.images_per_second,
            threads=setting.threads if told else self.threads,
            log=self.log,
            json=self.json,
        )
        usual = load_setting(self.setting)
        with leading(setting.ranks, self.workers) as first:
            if not first:
                return 0
            console = LastingConsole("nobody reads the output any more; the run goes on without it", self.json)
            outcome = run(setting, usual, experiments, left_out, where, console, self.dry_run, self.protocol)
            if self.json:
                folder = None if outcome.folder is None else str(outcome.folder)
                JsonLines().log({"event": "end", "folder": folder, "failed": outcome.failed})
            return 1 if outcome.failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m sparselt.reproduce`; returns the exit code: 2 for bad input, 1 if a stage failed, 130 or 143."""
    return run_command("reproduce", sys.argv[1:] if arguments is None else arguments, "python -m sparselt.reproduce")


def _command(given: Sequence[str]) -> str:
    """The command for the same run. It names the user's script, if any, which may bring its own experiments."""
    from sparselt.runs.program import own_script

    script = own_script()
    return shlex.join(["python", script, *sys.argv[1:]] if script else ["python", "-m", "sparselt.reproduce", *given])


def _check_no_setting(assignments: Sequence[str]) -> None:
    """Raises a SettingError if `model=` is given the name of a setting."""
    for assignment in assignments:
        name = assignment.removeprefix("model=")
        if name != assignment and name in SETTINGS:
            raise SettingError(
                f"--set {assignment}: {name} is a setting, which comes first, as in `sparselt reproduce {name}`; "
                "expected a model, such as model=resnet20"
            )


def _list(as_json: bool) -> int:
    if as_json:
        return _list_json()
    from rich.table import Table

    from sparselt.cli.console import LastingConsole
    from sparselt.experiments import known_experiments

    console = LastingConsole()
    table = Table(title="Settings", title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("setting", "scale", "steps", "levels", "rewind to", "runs", "data"):
        table.add_column(name, no_wrap=name != "rewind to", overflow="fold")
    for name in SETTINGS:
        for scale in SCALES:
            setting = load_setting(name, scale)
            table.add_row(
                name,
                f"{scale}*" if scale == default_scale(name) else scale,
                f"{setting.steps:,}",
                str(setting.levels),
                " · ".join(map(str, setting.rewind_steps)),
                str(setting.replicates),
                "--data" if setting.source is None else setting.source.kind,
            )
    console.print(table)
    for name, reference in own.entry_points("sparselt.settings").items():
        console.print(f"{name}: {reference}, of an installed package", highlight=False)
    console.print("* the default; runs: replicates; rewind to and steps: optimizer steps\n", highlight=False)
    table = Table(title="Experiments", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("experiment", no_wrap=True)
    table.add_column("what it measures")
    table.add_column("papers")
    for name, experiment in known_experiments().items():
        table.add_row(name, experiment.title, experiment.paper)
    console.print(table)
    return 0


def _list_json() -> int:
    from sparselt.experiments import known_experiments
    from sparselt.experiments.events import JsonLines

    lines = JsonLines()
    for name in SETTINGS:
        for scale in SCALES:
            setting = load_setting(name, scale)
            lines.log(
                {
                    "event": "setting",
                    "setting": name,
                    "scale": scale,
                    "default": scale == default_scale(name),
                    "steps": setting.steps,
                    "levels": setting.levels,
                    "rewind_steps": list(setting.rewind_steps),
                    "replicates": setting.replicates,
                    "data": None if setting.source is None else setting.source.kind,
                }
            )
    for name, reference in own.entry_points("sparselt.settings").items():
        lines.log({"event": "setting", "setting": name, "reference": reference})
    for name, experiment in known_experiments().items():
        lines.log({"event": "experiment", "experiment": name, "measures": experiment.title, "paper": experiment.paper})
    return 0
