"""The trained networks of a run, by their places in its results."""

import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.runs.networks import NetworkRow
from sparselt.runs.store import Store
from sparselt.stages.stage import Stage, StageFile
from sparselt.stages.train import Train

OTHER = "other"
"""The variant of a network that nothing measures by itself, and that is neither dense nor a ticket."""
Place = tuple[str, str, int, int | None, int]
"""Variant, condition, replicate, rewind step and level."""


def network_rows(
    measurements: Sequence[Measurement], lost: Collection[str], lab: Lab, store: Store, folder: Path
) -> Iterator[NetworkRow]:
    """Every trained network, with the experiment that asked for it: first those that are measured by themselves, then
    those that other stages need, for the first experiment that needs them.

    Of the latter, dense networks and tickets of IMP have the places that `imp` gives them, and networks that a
    measurement names have its place. Others, such as copies in another data order, are of variant `other`; their
    condition says of which variant they are and which input (`of=random between=copies input=second`).

    Args:
        lost: keys of the stages that failed or were skipped.
        folder: of the run; the paths of the files start there.
    """

    here = folder.resolve()
    root = here.parent / "store"
    if root.resolve() != store.root:
        root = store.root

    def path(file: StageFile | None) -> str:
        if file is None:
            return ""
        place = root / store.folder(file.stage).relative_to(store.root) / file.name  # by the link, if the store is one
        return os.path.relpath(place, here)

    def row(m: Measurement, network: Train, place: Place) -> NetworkRow:
        return NetworkRow(m.experiment, *place, path(network.final), path(network.mask))

    listed = set(lost)
    for m in measurements:
        if isinstance(m.stage, Train) and m.to_level is None and m.stage.key not in lost:
            listed.add(m.stage.key)
            yield row(m, m.stage, (m.variant, m.condition, m.replicate, m.rewind_step, m.level))
    known = _known(measurements, lab)
    seen: set[str] = set()
    for m in measurements:
        for name, network in _trainings(m.stages, seen):
            if network.key not in listed:
                listed.add(network.key)
                yield row(m, network, known.get(network.key) or _other(m, name, network))


def _known(measurements: Iterable[Measurement], lab: Lab) -> dict[str, Place]:
    """The places of dense networks, tickets, and what measurements name, by the keys of the trainings."""
    places: dict[str, Place] = {}
    for m in measurements:
        named = enumerate(m.networks) if m.network is None else [(m.level, m.network)]
        for level, network in named:
            places[network.key] = (m.variant, m.condition, m.replicate, m.rewind_step, level)
    setting = lab.setting
    for replicate in range(setting.replicates):
        for step in setting.rewind_steps:
            for level in range(setting.levels + 1):
                places[lab.ticket(replicate, step, level).key] = ("imp", "", replicate, step, level)
    for replicate in range(max(setting.replicates, setting.dense_replicates)):
        places[lab.dense(replicate).key] = ("dense", "", replicate, None, 0)
    return places


def _trainings(stages: Iterable[Stage], seen: set[str]) -> Iterator[tuple[str, Train]]:
    """The trainings among stages and all that they need, the nearest first, with the names of the inputs.

    seen: stages to leave out; those that are found are added.
    """
    waiting = deque(("", stage) for stage in stages)
    while waiting:
        name, stage = waiting.popleft()
        if stage.key in seen:
            continue
        seen.add(stage.key)
        if isinstance(stage, Train):
            yield name, stage
        waiting.extend((need, file.stage) for need, file in stage.inputs.items())


def _other(m: Measurement, name: str, network: Train) -> Place:
    direct = any(network.key == file.stage.key for file in m.stage.inputs.values())
    which = f"input={name}" if direct else f"training={network.key[:8]}"
    condition = " ".join(filter(None, (f"of={m.variant}", m.condition, which)))
    return OTHER, condition, m.replicate, m.rewind_step, _level(network)


def _level(network: Train) -> int:
    """How many prunings lie behind a network's mask."""
    level, mask = 0, network.mask
    while mask is not None:
        pruned = mask.stage.inputs.get("weights")
        if pruned is not None and isinstance(pruned.stage, Train):
            level, mask = level + 1, pruned.stage.mask
        else:  # drawn or combined from another mask, or made without a training
            mask = mask.stage.inputs.get("mask")
            level += mask is None
    return level
