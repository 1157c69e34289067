"""Iterative magnitude pruning, its controls and its variants: error against density (Paul et al. 2022, Fig. 5)."""

from collections.abc import Iterator

from sparselt.experiments.chains import CHAINS, chain
from sparselt.experiments.experiment import Experiment
from sparselt.experiments.imp.options import ImpOptions
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.solutions import dense_errors, ticket_errors


def imp(lab: Lab) -> Iterator[Measurement]:
    """Iterative magnitude pruning with weight rewinding, its controls and variants (Paul et al. 2022, Fig. 5).

    Test error of the dense network (`dense`, level 0), of every level at every rewind step (`imp`), and at the control
    rewind step of what `variants` names. With `level_0` rewound, `imp` has a level 0 at every rewind step, which its
    level 1, `one_shot` and the chains prune; else they prune `dense`.

    Controls and variants at the control levels, with as many weights as the ticket:

    - `random`: a random mask of the ticket's layerwise densities, on the same rewound weights;
    - `reinit`: the ticket's mask on a fresh initialization, trained in full (both Frankle et al. 2019);
    - `shuffled`: the ticket's mask, its rewound weights permuted among the live positions of each layer, so that each
      layer starts from the same numbers in other places. Ours, after the ablations of Frankle et al. 2021, Pruning
      Neural Networks at Initialization, who shuffle the mask within each layer: that is `random`;
    - `one_shot`: the dense network pruned once, and rewound (Frankle et al. 2019).

    At every level up to `variant_levels`, the chains `layerwise`, `lr_rewinding` and `fine_tuning`, which each prune
    their own networks as often as IMP, see `sparselt.experiments.chains`.

    Metrics: test_error, test_loss, train_loss; `empty_layer`, with `layer=name` as condition, where pruning has left
    none of a layer's weights.
    """
    setting, options = lab.setting, lab.setting.option(ImpOptions)
    yield from dense_errors(lab, "imp")
    for replicate in range(setting.replicates):
        yield from ticket_errors(lab, "imp", replicate)
        step = setting.control_rewind_step
        others = replicate < (options.variant_replicates or setting.replicates)
        for level in setting.control_levels:
            yield from _controls(lab, replicate, step, level, others)
        last = options.variant_levels or max(setting.control_levels, default=0)
        for variant in CHAINS if others else ():
            if variant in options.variants:
                for level, (_, network) in enumerate(chain(lab, variant, replicate, step, last), 1):
                    yield Measurement("imp", variant, replicate, step, level, network)


def _controls(lab: Lab, replicate: int, step: int, level: int, others: bool) -> Iterator[Measurement]:
    """What is compared with one ticket: the controls, and with `others` the variants."""
    variants = [v for v in lab.setting.option(ImpOptions).variants if others or v in ("random", "reinit")]
    mask = lab.mask(replicate, step, level)
    place = f"replicate {replicate}, level {level}"
    if "random" in variants:
        yield Measurement("imp", "random", replicate, step, level, lab.random_control(replicate, step, level))
    if "reinit" in variants:
        yield Measurement("imp", "reinit", replicate, step, level, lab.reinit_control(replicate, step, level))
    if "shuffled" in variants:
        weights = lab.shuffled_weights(replicate, step, level)
        seeds = lab.seeds(replicate, level, step)
        network = lab.training(seeds, start_step=step, label=f"shuffled weights, {place}", weights=weights, mask=mask)
        yield Measurement("imp", "shuffled", replicate, step, level, network)
    if "one_shot" in variants:
        once = lab.pruned_mask(lab.ticket(replicate, step, 0), None, f"one-shot mask, {place}", as_many_as=mask)
        network = lab.rewound(replicate, step, once, f"one-shot, {place}", level=level)
        yield Measurement("imp", "one_shot", replicate, step, level, network)


EXPERIMENT = Experiment(
    imp, "all four", options=ImpOptions, report="sparselt.experiments.imp.report", order=1, main=True
)
