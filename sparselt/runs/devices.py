"""The devices that a run may use."""

import os
from collections.abc import Sequence
from pathlib import Path

from sparselt.errors import SettingError


def cuda_devices() -> list[str]:
    """The GPUs that a run may use, as `CUDA_VISIBLE_DEVICES` names them; see `like_the_first`.

    Not yet run on a machine with several.
    """
    import torch

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return like_the_first(names, os.environ.get("CUDA_VISIBLE_DEVICES", ""))


def like_the_first(names: Sequence[str], visible: str = "") -> list[str]:
    """The devices of the same model as the first. On another model an equal training may have another result.

    names: the models of the devices that torch sees. visible: the value of `CUDA_VISIBLE_DEVICES`, which can put
        another model first; empty: all devices, by number.
    """
    listed = [device.strip() for device in visible.split(",") if device.strip()]
    devices = listed or [str(number) for number in range(len(names))]
    return [device for device, name in zip(devices, names, strict=False) if name == names[0]]


def together(devices: Sequence[str], ranks: int) -> list[str]:
    """The devices in groups, one for each training of several ranks; those that are left over stay idle.

    Raises:
        SettingError: there are fewer devices than ranks.
    """
    if len(devices) < ranks:
        raise SettingError(f"ranks is {ranks}, but this machine has {len(devices)} GPUs to give; expected at most that")
    return [",".join(devices[start : start + ranks]) for start in range(0, len(devices) - ranks + 1, ranks)]


def cpu_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether this CPU has instructions for bfloat16 products (AVX512_BF16, AMX_BF16, Arm's BF16); None if unknown.

    Without them, torch emulates autocast, which is slower than float32.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return None
    flags = {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"}) if flags else None
