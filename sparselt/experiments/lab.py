"""Builds the stages of experiments for one setting. Equal questions give equal stages."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

from sparselt.data import open_dataset, source_record
from sparselt.errors import SettingError
from sparselt.experiments.checks import check_rewind_step
from sparselt.experiments.measurement import check_stages
from sparselt.experiments.setting import Setting
from sparselt.models import model_digest
from sparselt.scopes import Rule, Scope, check_fraction, check_rule, check_scope
from sparselt.stages.criteria import PruneByCriterion
from sparselt.stages.data import HoldOut, Pixels, PrepareDataset, ReadPixels
from sparselt.stages.images import Crop, RandomCrop, Shift, WholeImages
from sparselt.stages.masks import DrawMask, Prune, Shuffle
from sparselt.stages.paths import EvaluatePath
from sparselt.stages.stage import JsonFile, StageFile
from sparselt.stages.train import Train
from sparselt.training.recipe import Seeds, derive_seed

Found = Callable[[JsonFile[Any]], Any]
"""Reads a JSON file of a stage; None if the stage has not run yet."""


class Lab:
    """Builds stages; runs nothing.

    Args:
        setting: the protocol, checked.
        device: `cpu` or `cuda`.
        data: a folder of betons to use instead of the setting's source.
        found: reads results of finished stages, for experiments whose next stage depends on them (see `adaptive`); by
            default no stage has run.
    """

    def __init__(
        self,
        setting: Setting,
        device: str = "cpu",
        data: Path | None = None,
        found: Found = lambda result: None,
    ):
        self.setting = setting
        self.device = device
        self.found = found
        self._folder = data
        self._changes = ""
        # Asked for thousands of times. A level needs the one before it twice, for weights and mask, so that without
        # this memory the work doubles at each level.
        self._dense: dict[int, Train] = {}
        self._masks: dict[tuple[int, int, int], StageFile] = {}
        ready: dict[str, Any] = {"label": "data set", "work": setting.train_count + setting.test_count}
        if data is None:
            # A setting without a source needs the user's data; without it only a plan can be made.
            source = None if setting.source is None else source_record(setting.source)
            self.dataset = PrepareDataset(source=source, **ready)
        else:
            fingerprint = open_dataset(data).manifest.fingerprint
            self.dataset = PrepareDataset(fingerprint=fingerprint, folder=str(data), **ready)

    def changed(self, **values: Any) -> "Lab":
        """The lab of the same setting with other values (`lr`, `batch_size`, …). Equal trainings are shared.

        Raises:
            SettingError: an unknown name, or a value that cannot be run.
        """
        lab = Lab(self.setting.changed(**values).check(), self.device, self._folder, self.found)
        told = ", ".join(f"{name} {value}" for name, value in values.items() if isinstance(value, int | float | str))
        lab._changes = self._changes + (f"; {told}" if told else "")
        return lab

    def label(self, text: str) -> str:
        """The label of a stage in the ledger: `text`, and the values that this lab was `changed` to."""
        return text + self._changes

    def dense(self, replicate: int) -> Train:
        """The dense network, trained from initialization without a stop. Rewind checkpoints are taken from it."""
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
        known, place = self._masks, (replicate, rewind_step)
        # Level by level from below, because recursion would go as deep as there are levels.
        for each in range(1, level + 1) if (*place, level) not in known else ():
            if (*place, each) not in known:
                label = f"mask, replicate {replicate}, rewind {rewind_step}, level {each}"
                network = self.ticket(replicate, rewind_step, each - 1)
                known[*place, each] = self.pruned(network, known.get((*place, each - 1)), label)
        return known[*place, level]

    def ticket(self, replicate: int, rewind_step: int, level: int) -> Train:
        """IMP with weight rewinding: the network of `level`, rewound to `rewind_step` and trained to the end.

        Level 0 is the dense network, or with the setting's `level_0` rewound, the dense network trained on from the
        rewind step.

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
        self, replicate: int, rewind_step: int, mask: StageFile | None, label: str, *, level: int = 1, copy: int = 0
    ) -> Train:
        """The dense network's weights at `rewind_step`, under any mask, trained to the end.

        Args:
            mask: None: dense.
            level: decides the data order if `reshuffle` is `level`.
            copy: above 0: another data order, see `seeds`.
        """
        check_rewind_step(rewind_step, self.setting.steps)
        seeds = self.seeds(replicate, level, rewind_step, copy=copy)
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
        seeds = self.seeds(replicate, level, rewind_step, initialization="reinitialization")
        label = f"reinitialized control, replicate {replicate}, rewind {rewind_step}, level {level}"
        return self.training(seeds, mask=self.mask(replicate, rewind_step, level), label=label)

    def shuffled(self, replicate: int, rewind_step: int, level: int) -> StageFile:
        """The ticket's rewound weights, permuted among the live positions of each layer; momentum is not restored."""
        return Shuffle(
            seed=derive_seed(self.setting.seed, "shuffled weights", replicate, rewind_step, level),
            weights=self.checkpoint(replicate, rewind_step),
            mask=self.mask(replicate, rewind_step, level),
            label=self.label(f"shuffle of weights, replicate {replicate}, rewind {rewind_step}, level {level}"),
        ).shuffled

    def pruned(
        self,
        network: Train,
        mask: StageFile | None,
        label: str,
        *,
        fraction: float | None = None,
        scope: Scope | None = None,
        rule: Rule | None = None,
        equal: StageFile | None = None,
    ) -> StageFile:
        """The mask after pruning a trained network by the setting's criterion. mask: the network's; None if dense.

        `fraction`, `scope` and `rule` are the setting's unless given. With `equal`, a mask, exactly as many weights are
        left as it has, whatever the rule. What a criterion draws (random scores, the images it scores on) differs
        between networks of different initialization or data order.

        Raises:
            SettingError: a fraction outside (0, 1), an unknown scope, a rule that does not go with the scope.
        """
        check_stages("lab.pruned(network, …)", network)
        setting = self.setting
        if setting.criterion != "magnitude":
            seed = derive_seed(setting.seed, "criterion", network.seeds.initialization, network.seeds.order)
            return self._by_criterion(setting.criterion, network.final, mask, label, seed, fraction, scope, equal)
        fraction = setting.fraction if fraction is None else fraction
        scope = setting.scope if scope is None else scope
        rule = "exact" if equal is not None else rule or setting.rule
        check_fraction(fraction)
        check_scope(scope)
        check_rule(rule, scope)
        stage = Prune(
            fraction=float(fraction) if equal is None else None,
            scope=scope,
            rule=None if rule == "exact" else rule,
            weights=network.final,
            mask=mask,
            equal=equal,
            label=self.label(label),
            **(self.shape if mask is None else {}),
        )
        return stage.want(stage.measured).made_mask  # the numbers name empty layers

    def pruned_by(
        self,
        criterion: str,
        weights: StageFile,
        mask: StageFile | None,
        label: str,
        *,
        replicate: int,
        fraction: float | None = None,
        scope: Scope | None = None,
        equal: StageFile | None = None,
    ) -> StageFile:
        """The mask after pruning a checkpoint by a criterion, at initialization or after training.

        replicate: decides what the criterion draws, such as the images it scores on. Other arguments as for `pruned`.

        Raises:
            SettingError: a fraction outside (0, 1), an unknown scope or criterion.
        """
        seed = derive_seed(self.setting.seed, "criterion", replicate)
        return self._by_criterion(criterion, weights, mask, label, seed, fraction, scope, equal)

    def _by_criterion(
        self,
        criterion: str,
        weights: StageFile,
        mask: StageFile | None,
        label: str,
        seed: int,
        fraction: float | None,
        scope: Scope | None,
        equal: StageFile | None,
    ) -> StageFile:
        setting = self.setting
        fraction = setting.fraction if fraction is None else fraction
        scope = setting.scope if scope is None else scope
        check_fraction(fraction)
        check_scope(scope)
        stage = PruneByCriterion(
            criterion=criterion,
            criterion_source=_criterion_digest(criterion),
            fraction=float(fraction) if equal is None else None,
            scope=scope,
            samples=min(setting.criterion_images or 10 * setting.classes, setting.fitted_count),
            batch_size=setting.batch_size,
            seed=seed,
            techniques=setting.recipe.techniques,
            weights=weights,
            mask=mask,
            equal=equal,
            initial=_initial(weights) if _needs_initial(criterion) else None,
            **self.evaluating,
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
            **self.evaluating,
            label=self.label(label),
            work=points,
        )
        return stage.want(stage.measured)

    @cached_property
    def shape(self) -> dict[str, Any]:
        """The network's shape, as arguments of a stage."""
        setting = self.setting
        shape = {"model": setting.model, "classes": setting.classes, "channels": setting.channels}
        return shape | {"model_source": model_digest(setting.model)}

    @cached_property
    def images(self) -> dict[str, Any]:
        """Data and device, as arguments of a stage that trains or evaluates (`sparselt.stages.images.OnImages`)."""
        setting, note = self.setting, self.dataset.note
        common = {
            "classes": setting.classes,
            "channels": setting.channels,
            "device": self.device,
            "engine": setting.engine,
            "dataset": note,
        }
        if setting.engine == "streaming":
            crop = Crop(setting.eval_size, setting.eval_ratio, setting.eval_interpolation, setting.batch_size)
            return common | {"evaluated": crop}
        pixels: Pixels = ReadPixels(dataset=note, label="pixels", work=self.dataset.work)
        if count := setting.validation_count:
            seed, work = derive_seed(setting.seed, "validation"), setting.train_count
            pixels = HoldOut(count=count, seed=seed, pixels=pixels.train, label="validation images", work=work)
        return common | {"evaluated": WholeImages(), "train_pixels": pixels.train, "test_pixels": pixels.test}

    @property
    def evaluating(self) -> dict[str, Any]:
        """`images` and the network, as arguments of a stage that evaluates (`sparselt.stages.images.Evaluation`)."""
        setting = self.setting
        return {**self.images, **self.shape, "precision": setting.evaluated_in, "threads": setting.threads}

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
        setting = self.setting
        repelled = bool(repulsion and solutions)
        on_cpu = self.device == "cpu"
        stage = Train(
            recipe=setting.recipe if on_cpu else dataclasses.replace(setting.recipe, sparse_up_to=0.0),
            seeds=seeds,
            start_step=start_step,
            augmentation=Shift(setting.padding, setting.flip)
            if setting.engine == "resident"
            else RandomCrop(setting.train_size, setting.flip),
            eval_precision=None if setting.evaluated_in == setting.precision else setting.evaluated_in,
            repulsion=repulsion if repelled else None,
            solutions=tuple(solutions) if repelled else (),
            weights=weights,
            mask=mask,
            momentum=momentum,
            model_source=self.shape["model_source"],
            **self.images,
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
        initialization: str = "initialization",
        copy: int = 0,
    ) -> Seeds:
        """The seeds of one training.

        Args:
            initialization: another word gives other initial weights, different at each level.
            copy: 0: the setting's own data order and augmentation. k > 0: the k-th alternative of this replicate, equal
                at all levels, for the copies of LMC and for siblings.
        """
        for name, number in (("replicate", replicate), ("copy", copy)):
            if not isinstance(number, Integral) or number < 0:
                raise SettingError(f"{name} is {number!r}; expected a whole number from 0")
        setting, seed = self.setting, self.setting.seed
        # Level 0 is no training of its own unless it is rewound.
        own = (replicate, rewind_step if level or setting.level_0 == "rewound" else 0, level)
        varies: dict[str, tuple[tuple[int | str, ...], tuple[int | str, ...]]] = {
            "never": ((), ()),
            "lth_diet": ((), (replicate,)),
            "replicate": ((replicate,), (replicate,)),
            "level": (own, own),
        }
        order, augmentation = varies[setting.reshuffle]
        if copy:
            order = augmentation = ("copy", copy, replicate)
        initial = (replicate,) if initialization == "initialization" else (replicate, level)
        return Seeds(
            initialization=derive_seed(seed, initialization, *initial),
            order=derive_seed(seed, "order", *order),
            augmentation=derive_seed(seed, "augmentation", *augmentation),
        )


def _check_level(level: int, least: int) -> None:
    if not isinstance(level, int) or level < least:
        raise SettingError(f"level is {level!r}; expected a whole number from {least}; level 0 is the dense network")


def _initial(weights: StageFile) -> StageFile:
    """The initialization that a checkpoint goes back to, through all rewinds."""
    stage: Any = weights.stage
    while getattr(stage, "weights", None) is not None:
        stage = stage.weights.stage
    if not isinstance(stage, Train):
        raise SettingError(f"{weights.name} of a stage of kind {stage.kind} goes back to no initialization")
    return stage.checkpoint(0)


def _needs_initial(criterion: str) -> bool:
    from sparselt.criteria import find_criterion  # as below

    return find_criterion(criterion).needs == "initial"


def _criterion_digest(name: str) -> str | None:
    from sparselt.criteria import criterion_digest  # which needs torch; plans by magnitude do not

    return criterion_digest(name)
