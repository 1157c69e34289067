"""Everything that is to be tried and measured on a CUDA device, in steps: `make gpu`, or a step by its name.

    python -m sparselt.benchmarks.gpu [tests engine kernels loader] --out DIR

Each part of a step is a process of its own with a time limit, cheapest first, because a failed assertion on the device
fails all that its process does later. What is done is printed at once. DIR/gpu-results.tar.gz holds all results and
DIR/summary.txt what was printed, so that they can be fetched as two files. On another device, such as `cpu`, the steps
rehearse themselves: GPU tests are then collected, and benchmarks run quickly.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

STEPS = ("tests", "engine", "kernels", "loader")
_HOME = Path(__file__).resolve().parent
_STEP_SECONDS, _PART_SECONDS = 470.0, 150.0
_SUMMARY = 12_000  # characters
_LAST_LINES = 12
# The cheapest first, the capture of whole steps last.
_TEST_FILES = (
    "kernels/test_masked_sgd_on_gpu.py",
    "kernels/test_adaptive_on_gpu.py",
    "kernels/test_magnitude.py",
    "kernels/test_interpolate.py",
    "data/test_loaders_on_gpu.py",
    "benchmarks/test_clocks_on_gpu.py",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if a part failed or was cut."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", default=list(STEPS), metavar="STEP")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(arguments)
    if unknown := set(options.steps) - set(STEPS):
        parser.error(f"unknown step {', '.join(sorted(unknown))}; expected some of {', '.join(STEPS)}")
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    failed = False
    with (options.out / "summary.txt").open("a") as summary:
        for step in options.steps:
            began = time.monotonic()
            for name, command in _parts(step, options.device, options.out):
                left = _STEP_SECONDS - (time.monotonic() - began)
                # Captured steps are slow to build. They come last, so they may take all the time that is left.
                most = left if step == "engine" or "captured" in name else _PART_SECONDS
                line, fine = _run(name, command, min(left, most), options.out)
                failed |= not fine
                print(line, flush=True)
                summary.write(line + "\n")
                summary.flush()
    text = (options.out / "summary.txt").read_text()
    (options.out / "summary.txt").write_text(text[-_SUMMARY:])
    with tarfile.open(options.out / "gpu-results.tar.gz", "w:gz") as archive:
        for path in sorted(options.out.iterdir()):
            if path.suffix in (".json", ".log", ".txt", ".xml"):
                archive.add(path, path.name)
    return int(failed)


def _parts(step: str, device: str, out: Path) -> Iterator[tuple[str, list[str]]]:
    """Name and command of each part of a step."""
    from sparselt.benchmarks.command import suites

    rehearsed = device == "cpu"
    if step == "tests":
        for path in _test_files():
            name = f"tests-{path.stem}"
            command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", str(path), f"--junitxml={out / name}.xml"]
            yield name, command + ["--collect-only"] * rehearsed
    elif step == "engine":
        command = [sys.executable, "-m", "sparselt.benchmarks.engine", "--device", device]
        yield (
            "engine",
            [*command, "--out", str(out / "engine.json"), *["--sizes", "1", "--batch-size", "2"] * rehearsed],
        )
    else:
        for suite in suites():
            if (suite == "data") == (step == "loader"):
                command = [sys.executable, "-m", "sparselt.benchmarks", suite, "--device", device, "--out", str(out)]
                yield f"bench-{suite}", command + ["--quick"] * rehearsed


def _test_files() -> list[Path]:
    """The test files with GPU tests, the cheapest first."""
    tests = _HOME.parent / "tests"
    found = [path for path in sorted(tests.rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    first = [tests / name for name in _TEST_FILES]
    captured = [path for path in found if "captured" in path.name]
    others = [path for path in found if path not in first and path not in captured]
    return [path for path in first if path in found] + others + captured


def _run(name: str, command: list[str], seconds: float, out: Path) -> tuple[str, bool]:
    """Runs a part for at most `seconds`. Returns a line with the outcome (and the end of a failed log), and whether it
    passed.
    """
    if seconds <= 0:
        return f"{name}: not begun, the step's time was over", False
    log = out / f"{name}.log"
    began = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=_HOME.parent, start_new_session=True
        )
        try:
            code = process.wait(seconds)
            how = "ok" if code in (0, 5) else f"failed ({code})"  # 5: pytest found no test
        except subprocess.TimeoutExpired:
            code, how = 124, f"cut after {seconds:.0f} s"
        finally:
            _end(process)
    lines = log.read_text(errors="replace").strip().splitlines()
    told = lines[-_LAST_LINES:] if code not in (0, 5) else lines[-_LAST_LINES:] if name == "engine" else lines[-1:]
    return f"{name}: {how}, {time.monotonic() - began:.0f} s\n" + "\n".join(f"    {line[:300]}" for line in told), (
        code in (0, 5)
    )


def _end(process: subprocess.Popen) -> None:
    """Ends a part with the processes that it has started, which would disturb the parts after it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
