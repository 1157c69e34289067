"""Builds the stages of experiments for one setting. Asked twice for one training, it gives stages of one key."""

import dataclasses
from collections.abc import Callable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from sparselt.errors import SettingError
from sparselt.experiments.arguments import StageArguments
from sparselt.experiments.checks import check_rewind_step
from sparselt.experiments.measurement import check_stages
from sparselt.experiments.setting import Setting
from sparselt.scopes import Rule, Scope, check_fraction, check_rule, check_scope
from sparselt.stages.criteria import PruneByCriterion
from sparselt.stages.images import RandomCrop, Shift
from sparselt.stages.masks import DrawMask, Prune, Shuffle
from sparselt.stages.paths import EvaluatePath
from sparselt.stages.stage import JsonFile, StageFile
from sparselt.stages.train import Train
from sparselt.training.recipe import Seeds, derive_seed

ReadIfMade = Callable[[JsonFile[Any]], Any]
"""Reads a JSON file of a stage; None if the stage has not run yet."""


class Lab(StageArguments):
    """Builds stages; runs nothing.

    Args:
        setting: the protocol, checked.
        device: `cpu` or `cuda`.
        data: a folder of betons to use instead of the setting's source.
        read_if_made: reads results of finished stages, for experiments whose next stage depends on them (see
            `adaptive`). By default no stage has run.
    """

    def __init__(
        self,
        setting: Setting,
        device: str = "cpu",
        data: Path | None = None,
        read_if_made: ReadIfMade = lambda result: None,
    ):
        super().__init__(setting, device, data)
        self.read_if_made = read_if_made
        self._changes = ""
        # Each level asks for the level before it twice, for weights and mask. Without these two dictionaries the work
        # would double at each level.
        self._dense: dict[int, Train] = {}
        self._masks: dict[tuple[int, int, int], StageFile] = {}

    def changed(self, **values: Any) -> "Lab":
        """The lab of the same setting with other values (`lr`, `batch_size`, …). Trainings of one key are made once.

        Raises:
            SettingError: an unknown name, or a value that cannot be run.
        """
        lab = Lab(self.setting.changed(**values).checked(), self.device, self.data, self.read_if_made)
        changes = ", ".join(f"{name} {value}" for name, value in values.items() if isinstance(value, int | float | str))
        lab._changes = self._changes + (f"; {changes}" if changes else "")
        return lab

    def label(self, text: str) -> str:
        """The label of a stage in the ledger: `text`, and the values that this lab was `changed` to."""
        return text + self._changes

    def dense(self, replicate: int) -> Train:
        """The dense network, trained from initialization to the end. Its checkpoints are what tickets rewind to."""
        if replicate not in self._dense:
            self._dense[replicate] = self.training(self.seeds(replicate, 0), label=f"dense, replicate {replicate}")
        return self._dense[replicate]

    def checkpoint(self, replicate: int, step: int) -> StageFile:
        """The dense network's checkpoint at `step`, below the setting's `steps`."""
        check_rewind_step(step, self.setting.steps)
        return self.dense(replicate).checkpoint(step)

    def mask(self, replicate: int, rewind_step: int, level: int) -> StageFile:
        """The mask of IMP level `level` ≥ 1, from pruning the level before."""
        _check_level(level, 1)
        masks = self._masks
        if (replicate, rewind_step, level) in masks:
            return masks[replicate, rewind_step, level]
        # Level by level from below, because recursion would go as deep as there are levels.
        for each in range(1, level + 1):
            if (replicate, rewind_step, each) not in masks:
                label = f"mask, replicate {replicate}, rewind {rewind_step}, level {each}"
                network = self.ticket(replicate, rewind_step, each - 1)
                mask_before = masks.get((replicate, rewind_step, each - 1))
                masks[replicate, rewind_step, each] = self.pruned_mask(network, mask_before, label)
        return masks[replicate, rewind_step, level]

    def ticket(self, replicate: int, rewind_step: int, level: int) -> Train:
        """IMP with weight rewinding: the network of `level`, rewound to `rewind_step` and trained to the end.

        Level 0 is the dense network. If the setting's `level_0` is `rewound`, it is the dense network trained on from
        the rewind step.

        Raises:
            SettingError: a level below 0, or a rewind step outside the training.
        """
        _check_level(level, 0)
        check_rewind_step(rewind_step, self.setting.steps)
        if level == 0 and (rewind_step == 0 or self.setting.level_0 == "uninterrupted"):
            return self.dense(replicate)
        label = f"replicate {replicate}, rewind {rewind_step}, level {level}"
        mask = self.mask(replicate, rewind_step, level) if level else None
        return self.rewound(replicate, rewind_step, mask, label, level=level)

    def rewound(
        self,
        replicate: int,
        rewind_step: int,
        mask: StageFile | None,
        label: str,
        *,
        level: int = 1,
        data_order_copy: int = 0,
    ) -> Train:
        """The dense network's weights at `rewind_step`, under any mask, trained to the end.

        Args:
            mask: None: dense.
            level: decides the data order if `reshuffle` is `level`.
            data_order_copy: above 0, another data order and augmentation, see `seeds`.
        """
        check_rewind_step(rewind_step, self.setting.steps)
        seeds = self.seeds(replicate, level, rewind_step, data_order_copy=data_order_copy)
        if mask is None and rewind_step == 0:
            return self.training(seeds, label=label)
        restored = self.setting.rewound_momentum == "restored" and rewind_step > 0
        return self.training(
            seeds,
            start_step=rewind_step,
            label=label,
            weights=self.checkpoint(replicate, rewind_step),
            mask=mask,
            momentum=self.dense(replicate).momentum_at(rewind_step) if restored else None,
        )

    def random_mask(self, replicate: int, rewind_step: int, level: int) -> StageFile:
        """A random mask of the ticket's layerwise densities."""
        seed = derive_seed(self.setting.seed, "random mask", replicate, rewind_step, level)
        label = self.label(f"random mask, replicate {replicate}, rewind {rewind_step}, level {level}")
        return DrawMask(seed=seed, mask=self.mask(replicate, rewind_step, level), label=label).made_mask

    def random_control(self, replicate: int, rewind_step: int, level: int) -> Train:
        """A random mask of the ticket's layerwise densities, on the ticket's own rewound weights."""
        mask = self.random_mask(replicate, rewind_step, level)
        label = f"random control, replicate {replicate}, rewind {rewind_step}, level {level}"
        return self.rewound(replicate, rewind_step, mask, label, level=level)

    def reinit_control(self, replicate: int, rewind_step: int, level: int) -> Train:
        """The ticket's mask on a fresh initialization, trained in full, because there is no checkpoint to rewind to."""
        seeds = self.seeds(replicate, level, rewind_step, weight_stream="reinitialization")
        label = f"reinitialized control, replicate {replicate}, rewind {rewind_step}, level {level}"
        return self.training(seeds, mask=self.mask(replicate, rewind_step, level), label=label)

    def shuffled_weights(self, replicate: int, rewind_step: int, level: int) -> StageFile:
        """The ticket's rewound weights, permuted among the live positions of each layer.

        A training that starts from them begins with zero momentum.
        """
        return Shuffle(
            seed=derive_seed(self.setting.seed, "shuffled weights", replicate, rewind_step, level),
            weights=self.checkpoint(replicate, rewind_step),
            mask=self.mask(replicate, rewind_step, level),
            label=self.label(f"shuffle of weights, replicate {replicate}, rewind {rewind_step}, level {level}"),
        ).shuffled

    def pruned_mask(
        self,
        network: Train,
        mask: StageFile | None,
        label: str,
        *,
        fraction: float | None = None,
        scope: Scope | None = None,
        rule: Rule | None = None,
        as_many_as: StageFile | None = None,
    ) -> StageFile:
        """The mask after pruning a trained network by the setting's criterion. mask: the network's; None if dense.

        `fraction`, `scope` and `rule` are the setting's unless given. `as_many_as` is a mask: exactly as many weights
        are left as it has, whatever the fraction and the rule. What a criterion draws (random scores, the images it
        scores on) differs between networks of different initialization or data order.

        Raises:
            SettingError: a fraction outside (0, 1), an unknown scope, a rule that does not go with the scope.
        """
        check_stages("lab.pruned_mask(network, …)", network)
        setting = self.setting
        if setting.criterion != "magnitude":
            seed = derive_seed(setting.seed, "criterion", network.seeds.initialization, network.seeds.order)
            return self._by_criterion(setting.criterion, network.final, mask, label, seed, fraction, scope, as_many_as)
        fraction = setting.fraction if fraction is None else fraction
        scope = setting.scope if scope is None else scope
        rule = "exact" if as_many_as is not None else rule or setting.rule
        check_fraction(fraction)
        check_scope(scope)
        check_rule(rule, scope)
        stage = Prune(
            fraction=float(fraction) if as_many_as is None else None,
            scope=scope,
            rule=None if rule == "exact" else rule,
            weights=network.final,
            mask=mask,
            as_many_as=as_many_as,
            label=self.label(label),
            **(self.network_arguments if mask is None else {}),
        )
        return stage.want(stage.measured).made_mask  # with the numbers, by which the report names empty layers

    def mask_by_criterion(
        self,
        criterion: str,
        weights: StageFile,
        mask: StageFile | None,
        label: str,
        *,
        replicate: int,
        fraction: float | None = None,
        scope: Scope | None = None,
        as_many_as: StageFile | None = None,
    ) -> StageFile:
        """The mask after pruning a checkpoint by a criterion, at initialization or after training.

        replicate: decides what the criterion draws, such as the images it scores on. Other arguments as for `pruned`.

        Raises:
            SettingError: a fraction outside (0, 1), an unknown scope or criterion.
        """
        seed = derive_seed(self.setting.seed, "criterion", replicate)
        return self._by_criterion(criterion, weights, mask, label, seed, fraction, scope, as_many_as)

    def _by_criterion(
        self,
        criterion: str,
        weights: StageFile,
        mask: StageFile | None,
        label: str,
        seed: int,
        fraction: float | None,
        scope: Scope | None,
        as_many_as: StageFile | None,
    ) -> StageFile:
        setting = self.setting
        fraction = setting.fraction if fraction is None else fraction
        scope = setting.scope if scope is None else scope
        check_fraction(fraction)
        check_scope(scope)
        stage = PruneByCriterion(
            criterion=criterion,
            criterion_source=_criterion_digest(criterion),
            fraction=float(fraction) if as_many_as is None else None,
            scope=scope,
            samples=min(setting.criterion_images or 10 * setting.classes, setting.trained_count),
            batch_size=setting.batch_size,
            seed=seed,
            techniques=setting.recipe.techniques,
            weights=weights,
            mask=mask,
            as_many_as=as_many_as,
            initial=_initial(weights) if _needs_initial(criterion) else None,
            **self.evaluation_arguments,
            label=self.label(label),
        )
        return stage.want(stage.measured).made_mask

    def path(self, first: Train, second: Train, label: str) -> EvaluatePath:
        """Error and loss on the straight line between two trained networks."""
        check_stages("lab.path(first, second, label)", first, second)
        points = self.setting.path_points
        stage = EvaluatePath(
            points=points,
            first=first.final,
            second=second.final,
            **self.evaluation_arguments,
            label=self.label(label),
            work=points,
        )
        return stage.want(stage.measured)

    def training(
        self,
        seeds: Seeds,
        *,
        start_step: int = 0,
        label: str,
        weights: StageFile | None = None,
        mask: StageFile | None = None,
        momentum: StageFile | None = None,
        repulsion: float = 0.0,
        solutions: Sequence[StageFile] = (),
    ) -> Train:
        """A training by the setting's recipe, from initialization or from `weights`.

        Args:
            start_step: where schedule and data start.
            repulsion, solutions: λ of the repelling loss and the networks that repel, see
                `sparselt.training.repulsion.Repulsion`.
        """
        setting, recipe = self.setting, self.setting.recipe
        repelled = bool(repulsion and solutions)
        if self.device != "cpu":
            recipe = dataclasses.replace(recipe, sparse_up_to=0.0, winograd=False)  # only the CPU has them
        stage = Train(
            recipe=recipe,
            seeds=seeds,
            start_step=start_step,
            augmentation=Shift(setting.padding, setting.flip)
            if setting.engine == "resident"
            else RandomCrop(setting.train_size, setting.flip),
            eval_precision=None if setting.eval_dtype == setting.precision else setting.eval_dtype,
            repulsion=repulsion if repelled else None,
            solutions=tuple(solutions) if repelled else (),
            weights=weights,
            mask=mask,
            momentum=momentum,
            model_source=self.network_arguments["model_source"],
            **self.image_arguments,
            label=self.label(label),
            work=setting.steps - start_step,
        )
        return stage.want(stage.measured)

    def seeds(
        self,
        replicate: int,
        level: int = 0,
        rewind_step: int = 0,
        *,
        weight_stream: str = "initialization",
        data_order_copy: int = 0,
    ) -> Seeds:
        """The seeds of one training.

        Args:
            weight_stream: names the stream of random numbers that initial weights come from. `initialization` gives
                the replicate's own weights at every level; any other name gives other weights, different at each level.
            data_order_copy: 0: the setting's own data order and augmentation. k > 0: the k-th alternative of this
                replicate, the same at all levels, for the copies of LMC and for siblings.
        """
        for name, number in (("replicate", replicate), ("data_order_copy", data_order_copy)):
            if not isinstance(number, Integral) or number < 0:
                raise SettingError(f"{name} is {number!r}; expected a whole number from 0")
        setting, seed = self.setting, self.setting.seed
        # The uninterrupted level 0 is one training for all rewind steps.
        each_training = (replicate, rewind_step if level or setting.level_0 == "rewound" else 0, level)
        Parts = tuple[int | str, ...]
        parts_of_order_and_augmentation: dict[str, tuple[Parts, Parts]] = {
            "never": ((), ()),
            "lth_diet": ((), (replicate,)),
            "replicate": ((replicate,), (replicate,)),
            "level": (each_training, each_training),
        }
        order, augmentation = parts_of_order_and_augmentation[setting.reshuffle]
        if data_order_copy:
            order = augmentation = ("copy", data_order_copy, replicate)
        initial = (replicate,) if weight_stream == "initialization" else (replicate, level)
        return Seeds(
            initialization=derive_seed(seed, weight_stream, *initial),
            order=derive_seed(seed, "order", *order),
            augmentation=derive_seed(seed, "augmentation", *augmentation),
        )


def _check_level(level: int, least: int) -> None:
    if not isinstance(level, int) or level < least:
        raise SettingError(f"level is {level!r}; expected a whole number from {least}; level 0 is the dense network")


def _initial(weights: StageFile) -> StageFile:
    """The initial weights of the training that a checkpoint comes from, through all rewinds."""
    stage: Any = weights.stage
    while getattr(stage, "weights", None) is not None:
        stage = stage.weights.stage
    if not isinstance(stage, Train):
        raise SettingError(f"{weights.name} of a stage of kind {stage.kind} goes back to no initialization")
    return stage.checkpoint(0)


def _needs_initial(criterion: str) -> bool:
    from sparselt.criteria import find_criterion  # imports torch, which plans by magnitude do not need

    return find_criterion(criterion).needs == "initial"


def _criterion_digest(name: str) -> str | None:
    from sparselt.criteria import criterion_digest  # imports torch, which plans by magnitude do not need

    return criterion_digest(name)
