"""The record of the machine: device, processor, threads, versions, date and commit."""

import os
import platform
import resource
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("sparselt", "torch", "torchvision", "triton", "numba", "numpy", "ffcv", "pytest-benchmark")


def machine(device: str) -> dict:
    """A JSON-able record of this machine, as seen by the process that measures."""
    import torch

    name = torch.cuda.get_device_name() if device != "cpu" else processor()
    record = {
        "device": device,
        "device_name": name,
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit(),
        "versions": {"python": platform.python_version(), **_versions()},
    }
    if device != "cpu":
        memory = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        record |= {"device_memory": memory, "cuda": torch.version.cuda}
    return record


def seconds_of_others() -> float | None:
    """CPU time since boot of all processes but this one and its finished children; None if the system does not say."""
    try:
        user, nice, system, _, _, *interrupts = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except (OSError, IndexError, ValueError):
        return None
    busy = sum(map(int, (user, nice, system, *interrupts))) / os.sysconf("SC_CLK_TCK")
    ours = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return busy - sum(usage.ru_utime + usage.ru_stime for usage in ours)


def processor() -> str:
    """The model's name, such as `AMD EPYC 7B13`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of this clone, with `+` if files differ from it; None outside a clone."""
    folder = Path(__file__).parent
    if not (folder.parent / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip() or None


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
