"""Can a network be rewound to its initialization if its training is stable? (Maene et al. 2021)"""

from collections.abc import Iterator, Sequence

from sparselt.errors import SettingError
from sparselt.experiments.equal_epochs import equal_epochs
from sparselt.experiments.grids import unset
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.setting import Setting
from sparselt.runs.stage import Need, Stage

_BINS = 41


def rewind_to_init(lab: Lab) -> Iterator[Measurement]:
    """Rewinding to step 0 under trainings that are more or less stable: larger batches, warm-up, a repelling loss.

    Maene et al. 2021. Batch sizes train for the same epochs at one learning rate, `init_lr`; the warm-ups are those of
    the setting's own batch size and learning rate. Every round prunes `init_fraction`, or with `init_warmup_levels` the
    warm-ups' the setting's own fraction, which shares their trainings with `imp` and `stability`.

    Variants: `dense`, `imp`, `reinit` (the mask on a fresh initialization).
    Conditions: `batch_size=32 lr=0.1`, a warm-up as `warmup_steps=300` behind, the loss's λ as `repulsion=2`: λ above 0
    repels at the largest batch size, below 0 it attracts at the smallest, from or to all earlier solutions.
    Metrics: `test_error`; `barrier` between successive rounds; `angular_distance` (2·angle/π on shared weights) of all
    pairs of rounds, `angular_distance_to_initialization`; `threshold`, `threshold_ratio`, `bimodality` and
    `weight_share` of the weights, see `sparselt.analysis.histograms`.
    """
    setting, grids = lab.setting, lab.setting.grids
    _check(setting)
    labs = {size: _changed(lab, "init_batch_sizes", size, size, lr=grids.init_lr) for size in grids.init_batch_sizes}
    own, warmups = setting.batch_size, grids.init_warmup_steps
    warm = {steps: _changed(lab, "init_warmup_steps", steps, own, warmup_steps=steps) for steps in warmups}
    for replicate in range(setting.replicates):
        for other in labs.values():
            yield from _rounds(other, _condition(other), replicate)
        for steps, other in warm.items():
            yield from _rounds(other, f"{_condition(other)} warmup_steps={steps}", replicate)
        for strength in grids.repulsion_strengths:
            chosen = labs[max(labs) if strength > 0 else min(labs)]
            yield from _repelled(chosen, strength, grids.repulsion_levels, replicate)


def why_not(setting: Setting) -> str:
    """Why a setting cannot run it; empty if it can."""
    sizes = f"{setting.batch_size},{4 * setting.batch_size}"
    missing = unset(setting, init_batch_sizes=sizes, init_lr=setting.lr, init_levels=setting.levels)
    return "" if setting.grids.init_warmup_steps else missing


def _rounds(lab: Lab, condition: str, replicate: int) -> Iterator[Measurement]:
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
    spec = {"bins": _BINS, "fraction": lab.setting.fraction, "drawn": sorted({0, levels // 2, levels})}
    label = f"histograms, {condition}, replicate {replicate}"
    stage = _stage("histograms", lab, spec, _solutions(networks, masks), label, len(networks))
    yield Measurement("rewind_to_init", "imp", replicate, 0, 0, stage, condition=condition)


def _repelled(lab: Lab, strength: float, levels: int, replicate: int) -> Iterator[Measurement]:
    """IMP in which every round is repelled from all earlier solutions, or attracted; its masks reinitialized.

    The control stands at the last level: on a fresh initialization, with the loss, and without on the masks of IMP.
    """
    plain = _condition(lab)
    condition = f"{plain} repulsion={strength:g}"
    networks, masks = [lab.dense(replicate)], []
    for level in range(1, levels + 1):
        place = f"replicate {replicate}, level {level}"
        masks.append(lab.pruned(networks[-1], masks[-1] if masks else None, f"mask, {condition}, {place}"))
        start = {"weights": lab.checkpoint(replicate, 0), "mask": masks[-1]}
        loss = {"repulsion": strength, "solutions": [network.file("final.safetensors") for network in networks]}
        if strength > 0 and level == levels:
            fresh = lab.seeds(replicate, level, initialization="reinitialization")
            control = lab.training(fresh, label=f"reinitialized, {condition}, {place}", **loss, mask=masks[-1])
            for network, name in ((control, condition), (lab.reinit_control(replicate, 0, level), plain)):
                yield Measurement("rewind_to_init", "reinit", replicate, 0, level, network, condition=name)
        networks.append(lab.training(lab.seeds(replicate, level), label=f"{condition}, {place}", **loss, **start))
    yield from _errors(networks, condition, replicate)
    yield _angles(lab, networks, masks, condition, replicate)


def _errors(networks: Sequence[Stage], condition: str, replicate: int) -> Iterator[Measurement]:
    yield Measurement("rewind_to_init", "dense", replicate, None, 0, networks[0], condition=condition)
    for level, network in enumerate(networks[1:], 1):
        yield Measurement("rewind_to_init", "imp", replicate, 0, level, network, condition=condition)


def _angles(lab: Lab, networks: Sequence[Stage], masks: Sequence[Need], condition: str, replicate: int) -> Measurement:
    needs = {**_solutions(networks, masks), "initialization": lab.checkpoint(replicate, 0)}
    label = f"angles between rounds, {condition}, replicate {replicate}"
    stage = _stage("angular_distances", lab, {}, needs, label, len(networks) * (len(networks) + 1) // 2)
    return Measurement("rewind_to_init", "imp", replicate, 0, 0, stage, condition=condition)


def _stage(kind: str, lab: Lab, spec: dict, needs: dict[str, Need], label: str, steps: int) -> Stage:
    spec = {"threads": lab.setting.threads, **spec}
    return Stage(kind, spec, needs, frozenset({"values.json"}), label, steps=steps)


def _solutions(networks: Sequence[Stage], masks: Sequence[Need]) -> dict[str, Need]:
    weights = {f"weights_{level}": network.file("final.safetensors") for level, network in enumerate(networks)}
    return weights | {f"mask_{level}": mask for level, mask in enumerate(masks, 1)}


def _condition(lab: Lab) -> str:
    return f"batch_size={lab.setting.batch_size} lr={lab.setting.lr:g}"


def _changed(lab: Lab, field: str, chosen: int, batch_size: int, **values: float) -> Lab:
    """The lab of one condition; `field` of the grids holds what was `chosen`."""
    grids = lab.setting.grids
    rounds = {"init_levels": grids.init_levels, "init_fraction": grids.init_fraction or lab.setting.fraction}
    if field == "init_warmup_steps" and grids.init_warmup_levels:
        rounds = {"init_warmup_levels": grids.init_warmup_levels, "fraction": lab.setting.fraction}
    levels, fraction = rounds.values()
    try:
        return equal_epochs(lab, batch_size, levels=levels, fraction=fraction, **values)
    except SettingError as error:
        given = " and ".join(f"{name}={value:g}" for name, value in rounds.items())
        raise SettingError(f"{field} holds {chosen}, which with {given} cannot be run: {error}") from error


def _check(setting: Setting) -> None:
    grids = setting.grids
    if grids.init_batch_sizes and not grids.init_lr:
        raise SettingError("init_lr is 0; expected the learning rate of init_batch_sizes, such as 0.1")
    if grids.init_levels < 1:
        raise SettingError(f"init_levels is {grids.init_levels}; expected at least 1 round of pruning")
    if not grids.repulsion_strengths:
        return
    if 0 in grids.repulsion_strengths:
        raise SettingError("repulsion_strengths holds 0, no loss at all; expected λ above 0 to repel, below to attract")
    if not grids.init_batch_sizes:
        raise SettingError("repulsion_strengths needs init_batch_sizes: the loss acts at their largest or smallest")
    if not 1 <= grids.repulsion_levels <= grids.init_levels:
        raise SettingError(
            f"repulsion_levels is {grids.repulsion_levels}; expected 1 to the {grids.init_levels} of init_levels, "
            "which it is compared with"
        )
