"""Which GPUs the workers of a run share out among themselves. Not yet run on a machine with several."""

import os
from collections.abc import Sequence


def cuda_devices() -> list[str]:
    """The GPUs that a run may use, each as `CUDA_VISIBLE_DEVICES` calls it; see `like_the_first`."""
    import torch

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return like_the_first(names, os.environ.get("CUDA_VISIBLE_DEVICES", ""))


def like_the_first(names: Sequence[str], visible: str = "") -> list[str]:
    """The devices that are the same model as the first: only there do equal trainings have equal results.

    names: the models of the devices that torch sees; visible: what `CUDA_VISIBLE_DEVICES` says, by which another model
        can be chosen. Empty: every device, by number.
    """
    listed = [device.strip() for device in visible.split(",") if device.strip()]
    devices = listed or [str(number) for number in range(len(names))]
    return [device for device, name in zip(devices, names, strict=False) if name == names[0]]
