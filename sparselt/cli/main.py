"""The console script `sparselt`: one tree of commands, each a dataclass with `run`."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from sparselt.errors import SparseltError, naming_extras

COMMANDS = {
    "reproduce": ("sparselt.cli.reproduce", "Reproduce", "run a paper's experiments"),
    "data write": ("sparselt.cli.data", "write", "write a data set to betons"),
    "data info": ("sparselt.cli.data", "Info", "verify betons, print what they hold, draw some samples"),
    "runs list": ("sparselt.cli.runs", "List", "the runs in a folder, and who works on what"),
    "runs show": ("sparselt.cli.runs", "Show", "a run's networks, and the files of their weights and masks"),
    "runs export": ("sparselt.cli.runs", "Export", "write a trained network into a folder of its own"),
    "runs verify": ("sparselt.cli.runs", "Verify", "compare every stored file with its checksum"),
    "runs gc": ("sparselt.cli.runs", "Gc", "delete what no run needs"),
    "analyse": ("sparselt.cli.analyse", "Analyse", "masks and networks made elsewhere: overlap, barriers, flatness"),
    "report compare": ("sparselt.cli.report", "Compare", "two runs or more side by side, with tests"),
    "report": ("sparselt.cli.report", "Report", "draw the report of a run again"),
    "bench campaign": ("sparselt.benchmarks.campaign", "main", "where the time of training goes, and hours"),
    "bench": ("sparselt.benchmarks.command", "main", "measure the kernels here against named competitors"),
    "doctor": ("sparselt.cli.doctor", "doctor", "what is installed here, what works, what a setting lacks"),
}
"""By command: module, dataclass or function in it, help. Only the module of the given command is imported."""

TAKE_REFERENCES = ("reproduce", "data write", "runs export", "analyse", "doctor")
"""Commands that import the user's own code, given as `package.module:name`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 2 for bad input.

    arguments: None: those of this process, which is the console script. A reference package.module:name of the user's
        is then found in the current folder, too, as with `python -m sparselt`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--version"]:
        from sparselt import __version__

        print(__version__)
        return 0
    if given[:1] == ["--complete"]:
        from sparselt.cli.complete import print_completions

        return print_completions(COMMANDS)
    name = next((name for name in COMMANDS if given[: len(name.split())] == name.split()), "")
    if arguments is None and name in TAKE_REFERENCES:
        _find_here()
    try:
        if name:
            return run_command(name, given[len(name.split()) :], f"sparselt {name}")
        return _usage(given)
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`). Python would raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run_command(name: str, given: Sequence[str], prog: str) -> int:
    """Parses the arguments of a command and runs it. A SparseltError prints one line and returns 2."""
    module, attribute, _ = COMMANDS[name]
    try:
        with naming_extras():
            command = getattr(import_module(module), attribute)
            if not isinstance(command, type):  # a function that parses its own arguments
                return command(given, prog)
            if hasattr(command, "check_given"):
                command.check_given(given)
            import tyro

            from sparselt.cli.parsing import NUMBERS

            off = (tyro.conf.FlagCreatePairsOff,)
            return tyro.cli(command, args=given, prog=prog, config=off, registry=NUMBERS).run(given)
    except SparseltError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _find_here() -> None:
    """Modules are found in the current folder, too: `python -m` puts it on the path, a console script does not."""
    here = os.getcwd()
    if here not in sys.path and not sys.flags.safe_path:
        sys.path.insert(0, here)


def _usage(given: Sequence[str]) -> int:
    asked = given[:1] in ([], ["-h"], ["--help"])
    known = [name for name in COMMANDS if given and name.split()[0] == given[0]] or list(COMMANDS)
    if not asked and known == list(COMMANDS):
        print(f"error: unknown command {given[0]!r}; expected {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    print("usage: sparselt COMMAND ...   (sparselt COMMAND --help says more)\n")
    for name in known:
        print(f"  {name:12} {COMMANDS[name][2]}")
    return 0 if given and given[-1] in ("-h", "--help") else 2
