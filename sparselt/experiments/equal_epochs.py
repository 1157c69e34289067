"""A lab at another batch size for the same number of epochs."""

from typing import Any

from sparselt.errors import SettingError
from sparselt.experiments.lab import Lab


def equal_epochs(lab: Lab, batch_size: int, **values: Any) -> Lab:
    """The lab at another batch size. Steps, milestones and warm-up scale with the number of steps in an epoch.

    It rewinds to step 0 only and has no options. `values` replace other values of the setting, or scaled ones.

    Raises:
        SettingError: more images a step than there are, or a training that is too short for its milestones.
    """
    setting = lab.setting
    if not 1 <= batch_size <= setting.trained_count:
        raise SettingError(f"batch size {batch_size}; expected 1 to the {setting.trained_count} training images")

    def scaled(step: int) -> int:
        return round(step * (setting.trained_count // batch_size) / setting.steps_per_epoch)

    counted = {
        "steps": scaled(setting.steps),
        "milestones": tuple(scaled(milestone) for milestone in setting.milestones),
        "warmup_steps": scaled(setting.warmup_steps),
    }
    return lab.changed(batch_size=batch_size, rewind_steps=(0,), options=(), **{**counted, **values})
