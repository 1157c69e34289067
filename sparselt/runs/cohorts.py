"""Which trainings can be made side by side as one unit (`sparselt.training.cohort`), and how many at a time.

On a GPU a small network leaves most of the device idle, so several share it: as many as a measurement there says. On a
CPU separate processes are faster, so one network a process is the default there: on two cores two processes trained
1.64 times as fast as one process that took the two in turn, and one process with both side by side 0.93 times as fast
(digits recipe, one thread a network, medians of 7 interleaved, two EPYC cores).
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sparselt.runs.stage import Stage, digest

SIZES = (1, 2, 4, 8, 16)
_SPEC = {"recipe", "seeds", "start_step", "classes", "channels", "device", "engine", "train", "eval"}
_OWN = {"seeds", "start_step"}  # what members may differ in, besides the schedule and what they start from
_SHARED_NEEDS, _OWN_NEEDS = {"dataset", "train", "test"}, {"weights", "mask", "momentum"}
_NEAR = 0.9  # the shortest training's steps over the longest's: what is done early idles until the end
_NEAR_BEST = 0.95


def can_join(spec: Mapping[str, Any], needs: Iterable[str]) -> bool:
    """Whether a training with this spec and inputs of these names could be one of a cohort."""
    techniques = spec["recipe"]["techniques"]
    return (
        spec["engine"] == "resident"
        and spec.keys() <= _SPEC
        and set(needs) <= _SHARED_NEEDS | _OWN_NEEDS
        and not techniques["progressive_resizing"]
        and not techniques["ema_half_life"]
    )


def shared_spec(spec: Mapping[str, Any]) -> str:
    """Digest of what the members of a cohort have in common: all but seeds, start, and the schedule where that may."""
    recipe = dict(spec["recipe"])
    if not recipe["decoupled_weight_decay"]:  # which divides by the schedule's peak
        recipe.pop("schedule")
    return digest({name: value for name, value in spec.items() if name not in _OWN} | {"recipe": recipe})


@functools.lru_cache(maxsize=4096)
def group_of(stage: Stage) -> str | None:
    """Trainings with equal groups can be one cohort; None: this stage runs alone."""
    if stage.kind != "train" or not can_join(stage.spec, stage.needs):
        return None
    data = {name: [need.stage.key, need.file] for name, need in stage.needs.items() if name in _SHARED_NEEDS}
    return digest({"spec": shared_spec(stage.spec), "data": data})


def mates_of(stage: Stage, others: Iterable[Stage]) -> list[Stage]:
    """Those of `others` that can be trained together with `stage`, in their order."""
    group = group_of(stage)
    if group is None:
        return []
    return [
        other
        for other in others
        if min(stage.steps, other.steps) >= _NEAR * max(stage.steps, other.steps) and group_of(other) == group
    ]


def best_size(speed: Callable[[int], float | None]) -> int:
    """The smallest number of networks within 5% of the best images a second.

    speed: images a second of so many side by side, all together; None: they do not fit the device's memory. Asked for
        1, 2, 4, 8, 16 until one does not fit.
    """
    speeds: dict[int, float] = {}
    for size in SIZES:
        found = speed(size)
        if found is None:
            break
        speeds[size] = found
    if not speeds:
        return 1
    return min(size for size, found in speeds.items() if found >= _NEAR_BEST * max(speeds.values()))
