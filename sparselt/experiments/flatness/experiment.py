"""Does flatness limit what one level can prune, and what does a network bear early? (Paul et al. 2023, appendix D)"""

from collections.abc import Iterator

from sparselt.experiments.adaptive.experiment import sweeping
from sparselt.experiments.experiment import Experiment
from sparselt.experiments.flatness.options import FlatnessOptions
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.setting import Setting
from sparselt.experiments.solutions import dense_errors
from sparselt.stages.flatness import MeasureFlatness, Perturb
from sparselt.training.recipe import derive_seed

_TWENTIETHS = tuple(twentieth / 20 for twentieth in range(1, 20))
# A product goes forward and twice backward; with what autograd keeps, five times a forward pass.
_WORK_OF_A_PRODUCT = 5


def flatness(lab: Lab) -> Iterator[Measurement]:
    """The Hessian at the end of training against the largest prunable fraction; perturbations early in training.

    Paul et al., the version of ICLR 2023 (abstract), and 2022, appendix D. At the first and last rewind step. Variant
    `imp`: `eigenvalue_1`, …, `trace` and `largest_prunable_fraction` of each level of the grid, see
    `sparselt.stages.flatness`. Variants `perturbed` (a level of the grid) and `perturbed_dense` (level 0): the
    rewound network moved in a random direction by `scale` times what the next pruning moves it by, trained, and the
    path between its solution and the unperturbed one. The dense network's is at scale 1, as in appendix D. Unless
    `level_0` is rewound, its unperturbed solution is the dense training's own, which did not stop at the rewind step.

    In a run without `imp` also the test errors of the dense networks, which give ε.
    """
    setting, options = lab.setting, lab.setting.option(FlatnessOptions)
    for replicate in range(setting.replicates):
        ends = sorted({min(setting.rewind_steps), max(setting.rewind_steps)})
        for step in ends:
            for level in options.flatness_levels:
                network = lab.ticket(replicate, step, level)
                stage = _flatness(lab, replicate, step, level)
                yield Measurement("flatness", "imp", replicate, step, level, stage, network=network)
        for step in options.perturbation_steps or ends:
            if options.perturbation_scales:
                yield from _perturbed(lab, replicate, step, 0, 1.0)
            for scale in options.perturbation_scales:
                yield from _perturbed(lab, replicate, step, options.perturbation_level, scale)


def unsupported_reason(setting: Setting) -> str:
    """Why a setting cannot run it; empty if it can."""
    return setting.option(FlatnessOptions).unset(flatness_levels=f"0,{setting.levels}")


def _flatness(lab: Lab, replicate: int, step: int, level: int) -> MeasureFlatness:
    options = lab.setting.option(FlatnessOptions)
    samples = max(2, options.flatness_products // 2)
    mask = lab.mask(replicate, step, level) if level else None
    network, more = lab.ticket(replicate, step, level), _WORK_OF_A_PRODUCT * 2 * samples
    return MeasureFlatness(
        **sweeping(lab, replicate, step, network, mask, _TWENTIETHS, options.flatness_images, more),
        eigenvalues=options.flatness_eigenvalues,
        tolerance=0.01,
        products=options.flatness_products,
        trace_samples=samples,
        label=f"flatness, replicate {replicate}, rewind {step}, level {level}",
    )


def _perturbed(lab: Lab, replicate: int, step: int, level: int, scale: float) -> Iterator[Measurement]:
    """The move, the training from there, and the path from its solution to the unperturbed one."""
    name = f"replicate {replicate}, rewind {step}, level {level}, scale {scale:g}"
    mask = lab.mask(replicate, step, level) if level else None
    move = Perturb(
        scale=scale,
        seed=derive_seed(lab.setting.seed, "perturbation", replicate),
        **lab.network_arguments,
        weights=lab.checkpoint(replicate, step),
        mask=mask,
        next_mask=lab.mask(replicate, step, level + 1),
        label=f"perturbation, {name}",
    )
    seeds = lab.seeds(replicate, level, step)
    trained = lab.training(seeds, start_step=step, label=f"perturbed, {name}", weights=move.perturbed, mask=mask)
    ticket = lab.ticket(replicate, step, level)
    path = lab.path(ticket, trained, f"path to the perturbed, {name}")
    place = ("flatness", "perturbed" if level else "perturbed_dense", replicate, step, level)
    condition = f"scale={scale:g}"
    yield Measurement(*place, move, network=ticket, condition=condition)
    yield Measurement(*place, trained, condition=condition)
    yield Measurement(*place, path, to_level=level, network=ticket, condition=condition)


EXPERIMENT = Experiment(
    flatness,
    "Paul et al. 2023",
    unsupported_reason,
    FlatnessOptions,
    rests_on={"imp": dense_errors},
    report="sparselt.experiments.flatness.report",
    order=5,
)
