"""Does flatness limit what one level can prune, and what does a network bear early? (Paul et al. 2023, appendix D)"""

from collections.abc import Iterator

from sparselt.experiments.adaptive.experiment import search_stage
from sparselt.experiments.grids import unset
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.setting import Setting
from sparselt.runs.stage import Stage
from sparselt.training.recipe import derive_seed

_TWENTIETHS = tuple(twentieth / 20 for twentieth in range(1, 20))
# A product goes forward and twice backward; with what autograd keeps, five times a forward pass.
_WORK_OF_A_PRODUCT = 5


def flatness(lab: Lab) -> Iterator[Measurement]:
    """The Hessian at the end of training against the largest prunable fraction; perturbations early in training.

    Paul et al., the version of ICLR 2023 (abstract), and 2022, appendix D. At the first and last rewind step. Variant
    `imp`: `eigenvalue_1`, …, `trace` and `largest_prunable_fraction` of each level of the grid, see
    `sparselt.runs.kinds.flatness`. Variants `perturbed` (a level of the grid) and `perturbed_dense` (level 0): the
    rewound network moved in a random direction by `scale` times what the next pruning moves it by, trained, and the
    path between its solution and the unperturbed one. The dense network's is at scale 1, as in appendix D; its
    unperturbed solution is the dense training's own, which did not stop at the rewind step.
    """
    setting, grids = lab.setting, lab.setting.grids
    for replicate in range(setting.replicates):
        for step in sorted({min(setting.rewind_steps), max(setting.rewind_steps)}):
            for level in grids.flatness_levels:
                network = lab.ticket(replicate, step, level)
                stage = _stage(lab, replicate, step, level)
                yield Measurement("flatness", "imp", replicate, step, level, stage, network=network)
            if grids.perturbation_scales:
                yield from _perturbed(lab, replicate, step, 0, 1.0)
            for scale in grids.perturbation_scales:
                yield from _perturbed(lab, replicate, step, grids.perturbation_level, scale)


def why_not(setting: Setting) -> str:
    """Why a setting cannot run it."""
    return unset(setting, flatness_levels=f"0,{setting.levels}")


def _stage(lab: Lab, replicate: int, step: int, level: int) -> Stage:
    grids = lab.setting.grids
    samples = max(2, grids.flatness_products // 2)
    return search_stage(
        lab,
        "flatness",
        replicate,
        lab.ticket(replicate, step, level),
        lab.mask(replicate, step, level) if level else None,
        f"flatness, replicate {replicate}, " + (f"rewind {step}, level {level}" if level else "dense"),
        _TWENTIETHS,
        images=grids.flatness_images,
        eigenvalues=grids.flatness_eigenvalues,
        tolerance=0.01,
        products=grids.flatness_products,
        trace_samples=samples,
        work=_WORK_OF_A_PRODUCT * 2 * samples,
    )


def _perturbed(lab: Lab, replicate: int, step: int, level: int, scale: float) -> Iterator[Measurement]:
    """The move, the training from there, and the path from its solution to the unperturbed one."""
    name = f"replicate {replicate}, rewind {step}, level {level}, scale {scale:g}"
    mask = lab.mask(replicate, step, level) if level else None
    setting = lab.setting
    spec = {"scale": scale, "seed": derive_seed(setting.seed, "perturbation", replicate)}
    spec |= {"model": setting.model, "classes": setting.classes, "channels": setting.channels}
    needs = {"weights": lab.checkpoint(replicate, step), "next_mask": lab.mask(replicate, step, level + 1)}
    needs |= {"mask": mask} if mask else {}
    outputs = frozenset({"values.json", "weights.safetensors"})
    move = Stage("perturb", spec, needs, outputs, f"perturbation, {name}", steps=1)
    start = {"weights": move.file("weights.safetensors")} | ({"mask": mask} if mask else {})
    trained = lab.training(lab.seeds(replicate, level, step), start_step=step, label=f"perturbed, {name}", **start)
    ticket = lab.ticket(replicate, step, level)
    path = lab.path(ticket, trained, f"path to the perturbed, {name}")
    place = ("flatness", "perturbed" if level else "perturbed_dense", replicate, step, level)
    condition = f"scale={scale:g}"
    yield Measurement(*place, move, network=ticket, condition=condition)
    yield Measurement(*place, trained, condition=condition)
    yield Measurement(*place, path, to_level=level, network=ticket, condition=condition)
