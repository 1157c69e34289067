"""Do siblings agree on what to prune, and is a combination of their masks better than one? (Movva et al. 2021)"""

from collections.abc import Iterator

from sparselt.experiments.experiment import Experiment
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.setting import Setting
from sparselt.experiments.siblings.family import Family
from sparselt.experiments.siblings.options import SiblingsOptions


def siblings(lab: Lab) -> Iterator[Measurement]:
    """Overlap of siblings' masks against chance; test error of their union and intersection at equal density.

    Siblings share the first steps of training (`sibling_pretraining`, the column rewind_step) and differ in the data
    order of the rest; each trains to the end and is pruned by magnitude (Movva et al. 2021, abstract; the numbers are
    ours). None of them has the order in which the combined masks are retrained, so that no mask fits it by its origin.

    Variants: `siblings`, the overlap of the masks of k siblings of one density, as metrics `jaccard`, `union`,
    `intersection` and the chance of each; `union` and `intersection`, the combined masks retrained from the shared
    weights, with the metric `sibling_density` that reaches them, and `layer_density` by condition `layer`; `single`,
    the mask of the first sibling, and `random`, a random mask of the largest union's layerwise densities, retrained
    alike; `dense`. All masks of a density hold equally many weights, whatever the setting's `rule`. Column level:
    prunings of each sibling, 1 for one-shot. Conditions: `siblings`, how many are compared or combined, and `density`,
    what was asked for.
    """
    setting, options = lab.setting, lab.setting.option(SiblingsOptions)
    for replicate in range(setting.replicates):
        yield Measurement("siblings", "dense", replicate, None, 0, lab.dense(replicate))
        for pretraining in options.sibling_pretraining:
            retrained = pretraining in options.sibling_retrained
            for levels in options.sibling_levels if retrained else (1,):
                counts = options.sibling_counts if levels == 1 else options.sibling_iterative_counts
                for density in options.sibling_densities:
                    family = Family(lab, replicate, pretraining, levels, density)
                    compared = {options.sibling_overlap} if levels == 1 else set()
                    for count in sorted(compared | set(counts if retrained else ())):
                        yield family.overlap(count)
                    if retrained:
                        yield from family.retrained(counts)


def unsupported_reason(setting: Setting) -> str:
    """Why a setting does not run it; empty if it does."""
    options = setting.option(SiblingsOptions)
    wanted: dict[str, object] = {"sibling_pretraining": f"0,{setting.steps_per_epoch}", "sibling_densities": 0.2}
    if options.sibling_retrained:
        wanted |= {"sibling_counts": 2, "sibling_levels": 1}
        if any(levels > 1 for levels in options.sibling_levels):
            wanted["sibling_iterative_counts"] = 2
    return options.unset(**wanted)


EXPERIMENT = Experiment(
    siblings,
    "Movva et al. 2021",
    unsupported_reason,
    SiblingsOptions,
    report="sparselt.experiments.siblings.report",
    order=8,
    main=True,
)
