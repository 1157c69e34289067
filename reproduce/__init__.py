"""Settings of the papers and the command that runs them: `python -m sparselt.reproduce SETTING`.

One module a setting, with a function `setting(scale)`. Scales: `paper` is the exact protocol, `mini` the same protocol
with fewer steps, levels and replicates, `smoke` the same code in minutes on two CPU cores.
"""

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparselt.experiments.setting import Setting

SCALES = ("paper", "mini", "smoke")
DEFAULT_SCALES = MappingProxyType(
    {
        "digits_resnet8": "mini",
        "cifar10_resnet20": "paper",
        "cifar10_resnet20_stabilizing": "paper",
        "cifar10_resnet20_maene": "paper",
        "cifar100_resnet18": "paper",
        "imagenet_resnet50": "paper",
        "imagenet_resnet50_mild": "paper",
    }
)


def load_setting(name: str, scale: str | None = None) -> "Setting":
    """The setting `name` at `scale`, or at its default scale.

    Raises:
        SettingError: an unknown setting (the nearest names are offered) or scale.
    """
    from sparselt.errors import SettingError
    from sparselt.experiments.setting import nearest

    if name not in DEFAULT_SCALES:
        raise SettingError(f"unknown setting {name!r}{nearest(name, DEFAULT_SCALES)}")
    scale = scale or DEFAULT_SCALES[name]
    if scale not in SCALES:
        raise SettingError(f"unknown scale {scale!r}{nearest(scale, SCALES)}")
    return import_module(f"sparselt.reproduce.{name}").setting(scale)
