"""`sparselt bench`: runs the suites through pytest-benchmark, prints one table, writes JSON and plots."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from time import monotonic

from sparselt.errors import SettingError, SparseltError, StoreError, naming_extras
from sparselt.files import write_json

HOME = Path(__file__).resolve().parent
FORMAT = 1
"""The version of the JSON files. They hold format, suite, quick, command, machine, records (see `harness`), targets,
skipped, and busy: how many cores other processes used meanwhile."""


def main(arguments: Sequence[str] | None = None, prog: str = "sparselt bench") -> int:
    """Returns the exit code: 0, 1 for a suite that failed, 2 for bad input, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _options(arguments, prog)
    try:
        chosen, device = _chosen(options.suites), chosen_device(options.device)
        return _run(chosen, options, device, output_folder(options.out), prog)
    except SparseltError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def suites() -> list[str]:
    """Names of the suites: bench_<name>.py beside this file."""
    return sorted(path.stem.removeprefix("bench_") for path in HOME.glob("bench_*.py"))


def default_folder() -> Path:
    """benchmarks/results in a clone of the repository, else ./benchmark-results."""
    return HOME / "results" if (HOME.parent / "pyproject.toml").exists() else Path("benchmark-results")


def output_folder(asked: Path | None) -> Path:
    """The folder for results, made before anything is measured; StoreError if it cannot be written."""
    folder = asked or default_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StoreError(f"{folder} cannot hold results: {error.strerror}; name another folder with --out.") from None
    return folder


def chosen_device(asked: str | None) -> str:
    """`asked`, or by default the GPU if there is one; SettingError if the device is missing."""
    if asked not in (None, "cpu", "cuda"):
        raise SettingError(f"device {asked!r} is unknown; expected cpu or cuda.")
    if asked == "cpu":
        return asked
    import torch

    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise SettingError(
            "--device cuda, but torch sees no CUDA device here; run on a machine with one, or use --device cpu."
        )
    return "cuda" if available else "cpu"


def _options(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure the kernels and the data path against named competitors: one table, JSON files and plots.",
        epilog=f"Suites: {', '.join(suites())}. Ratios are a competitor's time over ours. `{prog} campaign` measures "
        "whole trainings instead, a factor at a time.",
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="which suites to run; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer cases and rounds: about a minute for all suites")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"folder for results (here: {default_folder()})")
    parser.add_argument("--json", action="store_true", help="print the records as JSON instead of the table")
    parser.add_argument("--device", metavar="cpu|cuda", help="where to measure; the GPU if there is one")
    return parser.parse_args(arguments)


def _chosen(names: Sequence[str]) -> list[str]:
    known = suites()
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise SettingError(f"unknown suite {name!r}{hint}; expected any of {', '.join(known)}.")
    with naming_extras():
        for package in ("pytest_benchmark", "rich", "matplotlib"):
            import_module(package)
    return list(dict.fromkeys(names)) or known


def _run(names: Sequence[str], options: argparse.Namespace, device: str, folder: Path, prog: str) -> int:
    from sparselt.benchmarks.machine import seconds_of_others

    command = " ".join([prog, *names] + ["--quick"] * options.quick + ["--device", device])
    results, files, failed, interrupted = [], [], [], False
    for name in names:
        print(f"{name}:", file=sys.stderr, flush=True)
        start, others = monotonic(), seconds_of_others()
        try:
            result, log = _measure(name, device, options.quick)
        except KeyboardInterrupt:
            interrupted = True
            break
        if others is not None and (now := seconds_of_others()) is not None:
            result["busy"] = round(max(0.0, (now - others) / (monotonic() - start)), 2)
        result = {"format": FORMAT, "suite": name, "quick": options.quick, "command": command} | result
        results.append(result)
        if result["records"]:
            files += _write(result, folder)
        if log is not None:
            failed.append((name, log))
    _show(results, files, options.json)
    if not failed and not interrupted and not any(result["records"] or result["skipped"] for result in results):
        print("error: nothing was measured: no suite has a benchmark for this device", file=sys.stderr)
        return 1
    for name, log in failed:
        print(f"error: the suite {name} failed; the end of its log:\n{log}", file=sys.stderr)
    if interrupted:
        print("interrupted: the suites before are written", file=sys.stderr)
    return 130 if interrupted else 1 if failed else 0


def _measure(name: str, device: str, quick: bool) -> tuple[dict, str | None]:
    """Runs one suite in its own process: machine, records, skipped; and the end of its log if it failed.

    Each suite has a process, because some data loaders change the threads of a process for good, or abort it.
    """
    from sparselt.benchmarks.targets import check

    with tempfile.TemporaryDirectory() as scratch:
        written, log = Path(scratch, "results.json"), Path(scratch, "log")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        environment |= {"SPARSELT_BENCH_DEVICE": device, "SPARSELT_BENCH_QUICK": str(int(quick)), "TMPDIR": scratch}
        command = [sys.executable, "-m", "pytest", f"{HOME}/bench_{name}.py", "--rootdir", str(HOME), "-o", "addopts="]
        command += ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest"]
        command += ["-q", "-s", "-rs", "--no-header", "--tb=short"]
        command += ["--benchmark-enable", "--benchmark-quiet", f"--benchmark-json={written}"]
        with log.open("w") as output:
            code = subprocess.run(command, cwd=scratch, env=environment, stdout=output, check=False).returncode
        text = log.read_text(errors="replace")
        result: dict = {"machine": None, "records": []}
        if written.exists() and written.stat().st_size:
            found = json.loads(written.read_text())
            result["machine"] = found["machine_info"]["sparselt"]
            result["records"] = [r for b in found["benchmarks"] for r in b["extra_info"].get("records", [])]
        result["targets"] = check(result["records"])
        result["skipped"] = re.findall(r"^SKIPPED .*?: (.*)$", text, re.MULTILINE)
        # 5: pytest found no test, because the suite has none for this device.
        return result, None if code in (0, 5) else "\n".join(text.splitlines()[-40:])


def prefix(machine: dict) -> str:
    """The prefix of files of this machine and day, such as `nvidia-h200-2026-11-21`."""
    words = machine["device_name"] + (f" {machine['cores']} cores" if machine["device"] == "cpu" else "")
    return f"{re.sub(r'[^a-z0-9]+', '-', words.lower()).strip('-')}-{machine['date'][:10]}"


def _write(result: dict, folder: Path) -> list[Path]:
    """The JSON file and the plots of one suite."""
    from sparselt.benchmarks.plots import save_plots

    machine, quick = result["machine"], "-quick" * result["quick"]
    path = folder / f"{prefix(machine)}-{result['suite']}{quick}.json"
    write_json(path, result)
    return [path, *save_plots(result["records"], folder, prefix(machine) + quick, machine["device_name"])]


def _show(results: Sequence[dict], files: Sequence[Path], as_json: bool) -> None:
    measured = [result for result in results if result["records"]]
    if as_json:
        print(json.dumps(results, indent=1, ensure_ascii=False))
        return
    from rich.console import Console

    from sparselt.benchmarks.table import WIDTH, notes, table

    console = Console(highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    if measured:
        machine = measured[0]["machine"]
        versions = machine["versions"]
        title = f"{machine['device_name']}, {machine['cores']} cores, {machine['threads']} threads; "
        title += f"torch {versions['torch']}, numba {versions.get('numba')}, {machine['date'][:10]}"
        records = [record for result in measured for record in result["records"]]
        console.print(table(records, title))
        for line in notes(records):
            console.print(line, markup=False)
        targets = [target for result in measured if not _was_busy(result) for target in result["targets"]]
        if targets:
            met = sum(target["met"] for target in targets)
            console.print(f"Targets: {met} met, {len(targets) - met} missed.")
    for result in measured:
        if _was_busy(result):
            of = f"{result['busy']:.1f} of {result['machine']['cores']} cores"
            console.print(f"{result['suite']}: other processes kept {of} busy; its times and targets say nothing.")
    for result in results:
        for reason in result["skipped"]:
            console.print(f"Skipped: {reason}", markup=False)
    for path in files:
        console.print(str(path), markup=False, soft_wrap=True)


def _was_busy(result: dict) -> bool:
    return result.get("busy", 0) > 0.1 * result["machine"]["cores"]
