"""Are the subnetworks of IMP stable to pruning and to data order? (Frankle et al. 2019, Stabilizing)"""

from collections.abc import Iterator

from sparselt.errors import SettingError
from sparselt.experiments.experiment import Experiment
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.setting import Setting
from sparselt.experiments.stability.options import StabilityOptions
from sparselt.stages.distances import MeasureDistance
from sparselt.stages.stage import StageFile


def stability(lab: Lab) -> Iterator[Measurement]:
    """How far subnetworks end from the dense network, and from themselves trained in another data order.

    Frankle et al. 2019. Stability to pruning compares a subnetwork with the dense network of level 0 restricted to its
    mask, both trained on one data order; stability to data order compares two copies of it that differ in that order.

    Variants: `dense`, `imp`, and `random`, a random mask of the same layerwise densities on the same rewound weights.
    Conditions: `rate=standard` at each of `stability_rewind_steps`; `rate=low` and `rate=warmup` at step 0; with
    `stability=pruning` or `stability=order` beside it on a distance.
    With `stability_curves` also the errors of all levels before, rewound to step 0 at each rate.
    Metrics: `l2_distance` and `angle` (degrees) over the weights of the mask; `test_error` of the subnetwork.
    """
    options = lab.setting.option(StabilityOptions)
    for rate, rated in _labs(lab).items():
        condition = f"rate={rate}"
        for replicate in range(lab.setting.replicates):
            yield Measurement("stability", "dense", replicate, None, 0, rated.dense(replicate), condition=condition)
            for step in options.stability_rewind_steps if rate == "standard" else (0,):
                for level in options.stability_levels:
                    masks = {
                        "imp": rated.mask(replicate, step, level),
                        "random": rated.random_mask(replicate, step, level),
                    }
                    for variant, mask in masks.items():
                        yield from _measured(rated, condition, variant, mask, replicate, step, level)
            if options.stability_curves:
                # Their trainings have been made already: the last level's mask needs them.
                for level in range(1, max(options.stability_levels, default=0)):
                    if level not in options.stability_levels:
                        ticket = rated.ticket(replicate, 0, level)
                        yield Measurement("stability", "imp", replicate, 0, level, ticket, condition=condition)


def unsupported_reason(setting: Setting) -> str:
    """Why a setting cannot run it; empty if it can."""
    options = setting.option(StabilityOptions)
    wanted: dict[str, object] = {"stability_levels": setting.levels, "stability_rates": "standard"}
    if "standard" in (options.stability_rates or ("standard",)):
        wanted["stability_rewind_steps"] = ",".join(map(str, setting.rewind_steps))
    if reason := options.unset(**wanted):
        return reason
    if setting.reshuffle == "level":
        return "reshuffle=level gives every level its own data order, and distances would not tell it from pruning"
    return ""


def _measured(
    lab: Lab, condition: str, variant: str, mask: StageFile, replicate: int, step: int, level: int
) -> Iterator[Measurement]:
    """Error of one subnetwork, and its distances to the dense network and to its copy."""

    def label(what: str) -> str:
        return f"{what}, replicate {replicate}, rewind {step}, level {level}"

    network = lab.rewound(replicate, step, mask, label(f"{variant} subnetwork"), level=level)
    copy = lab.rewound(
        replicate, step, mask, label(f"{variant} subnetwork in another data order"), level=level, data_order_copy=1
    )
    yield Measurement("stability", variant, replicate, step, level, network, condition=condition)
    for name, other in (("pruning", lab.ticket(replicate, step, 0)), ("order", copy)):
        stage = MeasureDistance(
            threads=lab.setting.threads,
            first=other.final,
            second=network.final,
            mask=mask,
            label=lab.label(label(f"stability to {name} of {variant}")),
        )
        yield Measurement(
            "stability", variant, replicate, step, level, stage, condition=f"{condition} stability={name}"
        )


def _labs(lab: Lab) -> dict[str, Lab]:
    """The lab of each learning rate.

    Raises:
        SettingError: a grid that cannot be run, named.
    """
    options = lab.setting.option(StabilityOptions)
    if min(options.stability_levels) < 1:
        raise SettingError(f"stability_levels {list(options.stability_levels)} holds 0, which is not pruned; from 1 on")
    labs = {}
    for rate in options.stability_rates:
        if rate == "standard":
            labs[rate] = lab
        elif rate == "low":
            labs[rate] = lab.changed(lr=_positive(options.low_lr, "low_lr", rate))
        else:
            name = "warmup_lr" if options.warmup_lr else "low_lr"
            steps = _positive(options.warmup_lr_steps, "warmup_lr_steps", rate)
            labs[rate] = lab.changed(lr=_positive(getattr(options, name), name, rate), warmup_steps=steps)
    return labs


def _positive(value: float, name: str, rate: str) -> float:
    if not value > 0:
        raise SettingError(f"{name} is {value}; expected a positive number for the rate {rate!r} of stability_rates")
    return value


EXPERIMENT = Experiment(
    stability,
    "Frankle et al. 2019",
    unsupported_reason,
    StabilityOptions,
    report="sparselt.experiments.stability.report",
    order=6,
    main=True,
)
