"""The console script: `sparselt reproduce | data | report | bench | doctor`."""

import os
import sys

_USAGE = """usage: sparselt COMMAND ...

  reproduce SETTING   run a paper's experiments (the same as python -m sparselt.reproduce)
  data write|info     write a data set to betons; look at one
  report FOLDER       draw the report of a run again
  bench [SUITE ...]   measure the kernels here against named competitors
  doctor              what is installed here, and what it can do
"""


def main() -> int:
    """Entry point of `sparselt`; returns the exit code."""
    from sparselt.errors import SparseltError

    command, arguments = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if command == "--version":
        from sparselt import __version__

        print(__version__)
        return 0
    if command in ("", "-h", "--help"):
        print(_USAGE, end="")
        return 0 if command else 2
    try:
        if command == "reproduce":
            from sparselt.reproduce.cli import main as reproduce

            return reproduce(arguments)
        if command == "data":
            from sparselt.reproduce.data import main as data

            return data(arguments)
        if command == "report":
            return _report(arguments)
        if command == "bench":
            from sparselt.reproduce.bench import bench

            return bench(arguments)
        if command == "doctor":
            from sparselt.reproduce.doctor import doctor

            doctor()
            return 0
    except SparseltError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever reads the output has seen enough (`| head`); Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    print(f"error: unknown command {command!r}; expected reproduce, data, report, bench or doctor", file=sys.stderr)
    return 2


def _report(arguments: list[str]) -> int:
    import argparse
    from pathlib import Path

    from rich.console import Console

    from sparselt.experiments.sections import built_in_sections
    from sparselt.report import console_summary, write_markdown, write_report

    parser = argparse.ArgumentParser(
        prog="sparselt report", description="Draws the figures and the page of a run's folder again."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a run's folder, with results.csv and record.json")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the findings as a Markdown page, and nothing else"
    )
    options = parser.parse_args(arguments)
    if options.markdown is not None:
        write_markdown(options.folder, options.markdown, built_in_sections())
        print(options.markdown)
        return 0
    sections = built_in_sections()
    write_report(options.folder, sections)
    console_summary(options.folder, Console(), sections)
    return 0
