"""What is trained and measured under one condition of `rewind_to_init`."""

import dataclasses
from collections.abc import Iterator, Sequence

from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.stages.distances import CountWeights, MeasureAngles
from sparselt.stages.stage import StageFile
from sparselt.stages.train import Train, finals

_BINS = 41


def rounds(lab: Lab, condition: str, replicate: int) -> Iterator[Measurement]:
    """IMP with rewinding to step 0: errors, the lines between successive rounds, angles, histograms."""
    levels = lab.setting.levels
    networks = [lab.ticket(replicate, 0, level) for level in range(levels + 1)]
    masks = [lab.mask(replicate, 0, level) for level in range(1, levels + 1)]
    yield from _errors(networks, condition, replicate)
    for level in range(levels):
        label = f"path, {condition}, replicate {replicate}, levels {level} to {level + 1}"
        path = lab.path(networks[level], networks[level + 1], label)
        yield Measurement("rewind_to_init", "imp", replicate, 0, level, path, level + 1, networks[level], condition)
    yield _angles(lab, networks, masks, condition, replicate)
    stage = CountWeights(
        threads=lab.setting.threads,
        weights=finals(networks),
        masks=tuple(masks),
        bins=_BINS,
        fraction=lab.setting.fraction,
        drawn=tuple(sorted({0, levels // 2, levels})),
        label=f"histograms, {condition}, replicate {replicate}",
        work=len(networks),
    )
    yield Measurement("rewind_to_init", "imp", replicate, 0, 0, stage, condition=condition)


def copies(lab: Lab, replicate: int) -> Measurement:
    """The line between the dense network and its copy in another data order."""
    first, name = lab.dense(replicate), f"dense, {condition_of(lab)}, replicate {replicate}"
    copy = lab.rewound(replicate, 0, None, f"{name}, in another data order", level=0, data_order_copy=1)
    path = lab.path(first, copy, f"path between copies, {name}")
    place = ("rewind_to_init", "dense", replicate, 0, 0)
    return Measurement(*place, path, to_level=0, network=first, condition=condition_of(lab), metrics=("instability",))


def repelled(lab: Lab, strength: float, levels: int, replicate: int) -> Iterator[Measurement]:
    """IMP in which every round is repelled from all earlier solutions, or attracted.

    The control of a repelling loss stands at the last level: the mask of IMP without the loss on a fresh
    initialization, and the same training repelled from the solutions of IMP at the levels before. The two differ in the
    loss alone.
    """
    plain = condition_of(lab)
    condition = f"{plain} repulsion={strength:g}"
    networks: list[Train] = [lab.dense(replicate)]
    masks: list[StageFile] = []
    for level in range(1, levels + 1):
        place = f"replicate {replicate}, level {level}"
        masks.append(lab.pruned_mask(networks[-1], masks[-1] if masks else None, f"mask, {condition}, {place}"))
        repelled = lab.training(
            lab.seeds(replicate, level),
            label=f"{condition}, {place}",
            repulsion=strength,
            solutions=finals(networks),
            weights=lab.checkpoint(replicate, 0),
            mask=masks[-1],
        )
        networks.append(repelled)
    if strength > 0:
        control = lab.reinit_control(replicate, 0, levels)
        earlier = finals(lab.ticket(replicate, 0, level) for level in range(levels))
        label = f"{control.label} repulsion={strength:g}"
        with_loss = dataclasses.replace(control, repulsion=strength, solutions=earlier, label=label)
        for network, name in ((with_loss, condition), (control, plain)):
            yield Measurement("rewind_to_init", "reinit", replicate, 0, levels, network, condition=name)
    yield from _errors(networks, condition, replicate)
    yield _angles(lab, networks, masks, condition, replicate)


def _errors(networks: Sequence[Train], condition: str, replicate: int) -> Iterator[Measurement]:
    yield Measurement("rewind_to_init", "dense", replicate, None, 0, networks[0], condition=condition)
    for level, network in enumerate(networks[1:], 1):
        yield Measurement("rewind_to_init", "imp", replicate, 0, level, network, condition=condition)


def _angles(
    lab: Lab, networks: Sequence[Train], masks: Sequence[StageFile], condition: str, replicate: int
) -> Measurement:
    stage = MeasureAngles(
        threads=lab.setting.threads,
        weights=finals(networks),
        masks=tuple(masks),
        initialization=lab.checkpoint(replicate, 0),
        label=f"angles between rounds, {condition}, replicate {replicate}",
        work=len(networks) * (len(networks) + 1) // 2,
    )
    return Measurement("rewind_to_init", "imp", replicate, 0, 0, stage, condition=condition)


def condition_of(lab: Lab) -> str:
    return f"batch_size={lab.setting.batch_size} lr={lab.setting.lr:g}"
