"""`sparselt doctor`: what this machine has, whether every kernel works on it, and what a setting would lack."""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sparselt.cli.terminal import say
from sparselt.errors import EXTRAS, SparseltError

if TYPE_CHECKING:
    from sparselt.experiments.setting import Setting

_GB = 1e9


def doctor(given: Sequence[str], prog: str = "sparselt doctor") -> int:
    """Runs the command; returns the exit code: 1 if a self-test fails or the setting lacks something."""
    asked = _parser(prog).parse_args(given)
    setting = None
    if asked.setting is not None:
        from sparselt.reproduce import load_setting

        setting = load_setting(asked.setting, asked.scale).checked()
    missing = [*_machine(asked.device)]
    if asked.self_test:
        missing += _self_tests(asked.device)
    if setting is not None:
        missing += _needs(setting, asked)
    for what in missing:
        print(f"missing: {what}", file=sys.stderr)
    if not missing:
        print("fine" if setting is None else f"fine: {setting.name} at scale {setting.scale} can run here")
    return 1 if missing else 0


def _parser(prog: str) -> argparse.ArgumentParser:
    # Not tyro, which belongs to an extra whose absence this command has to name.
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Say what is installed, test every kernel, and compare memory and disk with what a setting needs.",
        epilog="Exit code: 0 for fine, 1 if a self-test fails or the setting lacks something, 2 for bad arguments.",
    )
    parser.add_argument("setting", nargs="?", metavar="SETTING", help="see sparselt reproduce --list")
    parser.add_argument("--scale", metavar="paper|mini|smoke", help="of the setting; its default if not given")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to train; a GPU is tested where there is one")
    parser.add_argument("--workers", type=int, metavar="N", help="trainings side by side, as in a run")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of betons, as in a run")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="folder for results, as in a run")
    parser.add_argument("--no-self-test", dest="self_test", action="store_false", help="do not test the kernels")
    return parser


def _say(name: str, text: object) -> None:
    say(f"{name:14} {text}", indent=" " * 15)


def _machine(device: str | None) -> Iterator[str]:
    """Prints versions, cores, GPUs and extras; yields what is missing."""
    import torch

    from sparselt.runs.devices import cpu_has_bfloat16
    from sparselt.runs.versions import versions

    for name, version in versions().items():
        _say(name, version)
    _say("cores", f"{len(os.sched_getaffinity(0))} usable")
    bfloat16 = {True: "yes", False: "no: --set precision=float32 is faster on this CPU", None: "unknown"}
    _say("bfloat16", bfloat16[cpu_has_bfloat16()])
    driven = _driven()
    for line in driven:
        _say("driver", line)
    for index in range(torch.cuda.device_count()):
        _say("cuda", f"{torch.cuda.get_device_name(index)}, CUDA {torch.version.cuda}")
    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        reason = f"torch sees none of them: {built}" if driven else "nvidia-smi finds no driver"
        _say("cuda", f"no device ({reason}); all runs on the CPU, the Triton kernels only in their interpreter")
        if device == "cuda":
            yield f"a CUDA device: {reason}"
    for extra, packages in EXTRAS.items():
        absent = [package for package in packages if find_spec(package) is None]
        if absent and extra != "ffcv":
            _say(extra, f"{', '.join(absent)} not installed: pip install 'sparselt[{extra}]'")
    _ffcv()


def _driven() -> list[str]:
    """A line for each GPU that the NVIDIA driver knows: its name, the driver's version, its memory."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [
        f"{name}, driver {driver}, {memory}"
        for name, driver, memory in (line.split(", ") for line in found.stdout.splitlines())
    ]


def _ffcv() -> None:
    """Says whether FFCV works; if not, how to install what its build needs."""
    from sparselt.data.ffcv_bridge import require_ffcv

    try:
        require_ffcv()
    except SparseltError as error:
        _say("ffcv", f"betons are read by Pillow, the same but slower. {error}")
        for manager, line in install_lines().items():
            print(f"  with {manager:7} {line} && pip install 'sparselt[ffcv]'")  # not folded: it is copied


def install_lines() -> dict[str, str]:
    """By package manager: the command that installs what FFCV is built with: a compiler, OpenCV 4 and libjpeg-turbo."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    apt, dnf = ("", "") if headers else (f" python{version}-dev", f" python{version}-devel")
    return {
        "apt": f"apt-get install -y --no-install-recommends g++ pkg-config libopencv-dev libturbojpeg0-dev{apt}",
        # By what they provide: the package that holds libturbojpeg.pc has changed its name.
        "dnf": f"dnf install -y gcc-c++ pkgconf-pkg-config 'pkgconfig(opencv4)' 'pkgconfig(libturbojpeg)'{dnf}",
        "conda": "conda install -y -c conda-forge 'opencv=4' libjpeg-turbo pkg-config cxx-compiler",
    }


def _self_tests(device: str | None) -> Iterator[str]:
    """Tests the kernels on the CPU, and on the GPU if there is one."""
    import torch

    from sparselt.kernels.self_test import self_test

    for kind in ("cpu", "cuda") if torch.cuda.is_available() and device != "cpu" else ("cpu",):
        results = list(self_test(kind))
        failed = [result for result in results if result.error]
        seconds = sum(result.seconds for result in results)
        _say("self-test", f"{len(results) - len(failed)} of {len(results)} kernels agree on {kind}, {seconds:.0f} s")
        for result in failed:
            yield f"a working {result.name} on {kind}: {result.error}"


def _needs(setting: "Setting", asked: argparse.Namespace) -> Iterator[str]:
    """Compares what a run of the setting needs with what is here; yields what is missing."""
    absent = [package for package in EXTRAS["reproduce"] if find_spec(package) is None]
    if absent:
        yield f"{', '.join(absent)}, which every run needs: pip install 'sparselt[reproduce]'"
        return
    from sparselt.experiments import known_experiments
    from sparselt.experiments.data import check_data
    from sparselt.experiments.lab import Lab
    from sparselt.experiments.needs import check_gpu_memory, needs_of
    from sparselt.experiments.planning import chosen
    from sparselt.experiments.rounds import Finder, measured, plan_of
    from sparselt.runs.store import Store
    from sparselt.runs.workers import default_workers

    try:
        dataset = check_data(asked.data, setting, dry_run=False)
    except SparseltError as error:
        dataset = None
        yield str(error)
    store = Store(asked.out / "store", writable=False)
    lab = Lab(setting, asked.device or "cpu", None if dataset is None else dataset.folder, Finder(store))
    plan = plan_of(measured(chosen((), known_experiments(), setting)[0], lab))
    on_gpu = asked.device == "cuda"
    workers = asked.workers or (1 if on_gpu else default_workers(setting.threads * setting.ranks))
    missing = plan.missing(store)
    needs = needs_of(setting, missing, workers)
    # Each process has torch and the kernels in memory, as this one has by now.
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    memory = (workers + 1) * process + needs.data + (0 if on_gpu else workers * needs.training)
    yield from _compared("memory", memory, _free_memory(), f"workers: {workers}; try fewer, or --set micro_batches")
    if on_gpu and _has_gpu():
        import torch

        free, taken = torch.cuda.mem_get_info()[0], needs.training // setting.ranks + needs.data
        _say("GPU memory", f"about {taken / _GB:.1f} GB needed, {free / _GB:.1f} GB free")
        try:
            check_gpu_memory(setting, missing, free)
        except SparseltError as error:
            yield f"GPU memory: {error}"
    place = next(folder for folder in (asked.out, *asked.out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    yield from _compared("disk", needs.disk, free, f"in {asked.out}; try another --out")


def _compared(name: str, needed: float, free: float, remedy: str) -> Iterator[str]:
    _say(name, f"about {needed / _GB:.1f} GB needed, {free / _GB:.1f} GB free")
    if needed > free:
        yield f"{name}: about {(needed - free) / _GB:.1f} GB more ({remedy})"


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _free_memory() -> int:
    """Bytes that this machine, or this process's group of processes, could still take."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no such group, or one without a limit
        return available
    return min(available, limit - used)
