"""The stages that experiments are made of, for one setting: the same question always gives the same stage."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparselt.data import open_dataset, source_record
from sparselt.errors import SettingError
from sparselt.experiments.setting import Setting, check_rewind_step
from sparselt.pruning import check_fraction, check_scope
from sparselt.runs.stage import Need, Stage, check_stages, plain
from sparselt.training.recipe import Seeds, derive_seed

Found = Callable[[Stage, str], dict[str, Any] | None]
"""A JSON output of a stage; None where it has not run yet."""


class Lab:
    """Builds stages; runs nothing.

    Args:
        setting: the protocol, checked.
        device: `cpu` or `cuda`.
        data: a folder of betons to take in place of the setting's own source.
        found: what finished stages measured, for experiments whose next stage depends on it (see `adaptive`); by
            default nothing has run yet.
    """

    def __init__(
        self,
        setting: Setting,
        device: str = "cpu",
        data: Path | None = None,
        found: Found = lambda stage, file: None,
    ):
        self.setting = setting
        self.device = device
        self.found = found
        self._folder = data
        self._changes = ""
        # A level asks twice for the one before it (weights and mask): without a memory that doubles at every level.
        self._masks: dict[tuple[int, int, int], Need] = {}
        count = setting.train_count + setting.test_count
        if data is None:
            # Without a source the data is the user's, and only a plan can be made of it.
            source = None if setting.source is None else source_record(setting.source)
            self.dataset = Stage("dataset", {"source": source}, label="data set", steps=count)
        else:
            spec = {"fingerprint": open_dataset(data).manifest.fingerprint}
            self.dataset = Stage("dataset", spec, label="data set", steps=count, local={"folder": str(data)})
        note = self.dataset.file("dataset.json")
        self.data: dict[str, Need] = {"dataset": note}
        if setting.engine == "resident":
            resident = Stage("resident", {}, {"dataset": note}, label="pixels", steps=count)
            self.data["train"] = resident.file("train.safetensors")
            self.data["test"] = resident.file("test.safetensors")

    def changed(self, **values: Any) -> "Lab":
        """The lab of the same setting with other values (`lr`, `batch_size`, …): trainings that agree are shared.

        Raises:
            SettingError: an unknown name, or a value that cannot be run.
        """
        lab = Lab(self.setting.changed(**values).check(), self.device, self._folder, self.found)
        told = ", ".join(f"{name} {value}" for name, value in values.items() if isinstance(value, int | float | str))
        lab._changes = self._changes + (f"; {told}" if told else "")
        return lab

    def dense(self, replicate: int) -> Stage:
        """Level 0: the dense network, from initialization. One training for every rewind step and experiment."""
        return self.training(self.seeds(replicate, 0), label=f"dense, replicate {replicate}")

    def checkpoint(self, replicate: int, step: int) -> Need:
        """The dense network as it stood at `step`, below the setting's `steps`."""
        check_rewind_step(step, self.setting.steps)
        return self.dense(replicate).file(f"step-{step}.safetensors")

    def mask(self, replicate: int, rewind_step: int, level: int) -> Need:
        """The mask of IMP level `level` ≥ 1: the level before, pruned."""
        _check_level(level, 1)
        known, place = self._masks, (replicate, rewind_step)
        # From below, level by level: asking the last one for the one before it would go as deep as there are levels.
        for each in range(1, level + 1) if (*place, level) not in known else ():
            if (*place, each) not in known:
                label = f"mask, replicate {replicate}, rewind {rewind_step}, level {each}"
                network = self.ticket(replicate, rewind_step, each - 1)
                known[*place, each] = self.pruned(network, known.get((*place, each - 1)), label)
        return known[*place, level]

    def ticket(self, replicate: int, rewind_step: int, level: int) -> Stage:
        """IMP with weight rewinding: the network of `level`, rewound to `rewind_step` and trained to the end.

        Raises:
            SettingError: a level below 0, or a rewind step that is none of the training's.
        """
        _check_level(level, 0)
        check_rewind_step(rewind_step, self.setting.steps)
        if level == 0:
            return self.dense(replicate)
        label = f"replicate {replicate}, rewind {rewind_step}, level {level}"
        return self.rewound(replicate, rewind_step, self.mask(replicate, rewind_step, level), label, level=level)

    def rewound(
        self, replicate: int, rewind_step: int, mask: Need | None, label: str, *, level: int = 1, copy: int = 0
    ) -> Stage:
        """The dense network's weights at `rewind_step`, under any mask, trained to the end.

        Args:
            mask: None: dense.
            level: what the data order follows where `reshuffle` is `level`.
            copy: above 0: the same in another data order, see `seeds`.
        """
        check_rewind_step(rewind_step, self.setting.steps)
        seeds = self.seeds(replicate, level, rewind_step, copy=copy)
        if mask is None and rewind_step == 0:
            return self.training(seeds, label=label)
        needs = {"weights": self.checkpoint(replicate, rewind_step)} | ({"mask": mask} if mask else {})
        if self.setting.rewound_momentum == "restored" and rewind_step > 0:
            needs["momentum"] = self.dense(replicate).file(f"momentum-{rewind_step}.safetensors")
        return self.training(seeds, start_step=rewind_step, label=label, **needs)

    def random_mask(self, replicate: int, rewind_step: int, level: int) -> Need:
        """A random mask of the ticket's layerwise densities."""
        seed = derive_seed(self.setting.seed, "random mask", replicate, rewind_step, level)
        like = {"mask": self.mask(replicate, rewind_step, level)}
        label = f"random mask, replicate {replicate}, level {level}"
        return Stage("random_mask", {"seed": seed}, like, label=label, steps=1).file("mask.safetensors")

    def random_control(self, replicate: int, rewind_step: int, level: int) -> Stage:
        """A random mask of the ticket's layerwise densities, on the ticket's own rewound weights."""
        mask = self.random_mask(replicate, rewind_step, level)
        label = f"random control, replicate {replicate}, level {level}"
        return self.rewound(replicate, rewind_step, mask, label, level=level)

    def reinit_control(self, replicate: int, rewind_step: int, level: int) -> Stage:
        """The ticket's mask on a fresh initialization, trained in full: it has no first steps to be rewound to."""
        seeds = self.seeds(replicate, level, rewind_step, initialization="reinitialization")
        label = f"reinitialized control, replicate {replicate}, level {level}"
        return self.training(seeds, mask=self.mask(replicate, rewind_step, level), label=label)

    def shuffled(self, replicate: int, rewind_step: int, level: int) -> Need:
        """The ticket's rewound weights, permuted among the live positions of each layer; momentum is not restored."""
        seed = derive_seed(self.setting.seed, "shuffled weights", replicate, rewind_step, level)
        needs = {"weights": self.checkpoint(replicate, rewind_step), "mask": self.mask(replicate, rewind_step, level)}
        label = f"shuffled weights, replicate {replicate}, level {level}"
        return Stage("shuffle", {"seed": seed}, needs, label=label, steps=1).file("weights.safetensors")

    def pruned(
        self,
        network: Stage,
        mask: Need | None,
        label: str,
        *,
        fraction: float | None = None,
        scope: str | None = None,
        equal: Need | None = None,
    ) -> Need:
        """The mask that magnitude pruning of a trained network gives; `mask` is its own, None if it is dense.

        `fraction` and `scope` are the setting's unless given; with `equal`, a mask, as many weights are left as in it.

        Raises:
            SettingError: a fraction outside (0, 1), an unknown scope.
        """
        check_stages("lab.pruned(network, …)", network)
        setting = self.setting
        fraction = setting.fraction if fraction is None else fraction
        scope = setting.scope if scope is None else scope
        check_fraction(fraction)
        check_scope(scope)
        spec: dict[str, Any] = {"fraction": float(fraction), "scope": scope}
        needs = {"weights": network.file("final.safetensors")}
        if equal is not None:
            del spec["fraction"]
            needs["equal"] = equal
        if mask is None:
            spec |= {"model": setting.model, "classes": setting.classes, "channels": setting.channels}
        else:
            needs["mask"] = mask
        # Beside the mask, which of its layers are empty: a training under it tells.
        return Stage("prune", spec, needs, frozenset({"values.json"}), label, steps=1).file("mask.safetensors")

    def path(self, first: Stage, second: Stage, label: str) -> Stage:
        """Error and loss on the straight line between two trained networks."""
        check_stages("lab.path(first, second, label)", first, second)
        points = self.setting.path_points
        needs = {"first": first.file("final.safetensors"), "second": second.file("final.safetensors")}
        spec = {"points": points, "batch_norm": "interpolate"}
        return self.evaluation("path", spec, needs, label, steps=points, output="path.json")

    def evaluation(
        self,
        kind: str,
        spec: Mapping[str, Any],
        needs: Mapping[str, Need],
        label: str,
        *,
        steps: int,
        output: str = "values.json",
    ) -> Stage:
        """A stage of `kind` that evaluates networks on the setting's data; it gets model, device and data as well.

        Args:
            steps: networks that it evaluates on the test split, or as much work in that unit.
        """
        setting = self.setting
        common = {
            "model": setting.model,
            "classes": setting.classes,
            "channels": setting.channels,
            "precision": setting.precision,
            "threads": setting.threads,
            "device": self.device,
            "engine": setting.engine,
            "eval": self._eval(),
        }
        return Stage(kind, {**common, **spec}, {**needs, **self.data}, frozenset({output}), label, steps=steps)

    def training(
        self,
        seeds: Seeds,
        *,
        start_step: int = 0,
        label: str,
        repulsion: float = 0.0,
        solutions: Sequence[Need] = (),
        **needs: Need,
    ) -> Stage:
        """A training by the setting's recipe, from initialization or from what it needs.

        Args:
            start_step: where clock and data position stand at the start.
            needs: `weights` to start from, `mask`, `momentum`.
            repulsion, solutions: λ of the repelling loss and the networks that repel, see
                `sparselt.training.repulsion.Repulsion`.
        """
        setting = self.setting
        spec = {
            "recipe": plain(setting.recipe),
            "seeds": plain(seeds),
            "start_step": start_step,
            "classes": setting.classes,
            "channels": setting.channels,
            "device": self.device,
            "engine": setting.engine,
            "train": self._augmentation(),
            "eval": self._eval(),
        }
        if repulsion and solutions:
            spec["repulsion"] = repulsion
            needs |= {f"solution_{place}": solution for place, solution in enumerate(solutions)}
        outputs = frozenset({"measurements.json"})
        label += self._changes
        return Stage("train", spec, {**self.data, **needs}, outputs, label, steps=setting.steps - start_step)

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
            initialization: another word gives other initial weights, of their own at each level.
            copy: 0 for the setting's own data order and augmentation; k > 0 for the k-th other ones of this replicate,
                as LMC's copies and siblings have them, which are the same at all levels.
        """
        varies: dict[str, tuple[int | str, ...]] = {
            "never": (),
            "replicate": (replicate,),
            "level": (replicate, rewind_step, level) if level else (replicate, 0, 0),
        }
        key = ("copy", copy, replicate) if copy else varies[self.setting.reshuffle]
        seed = self.setting.seed
        initial = (replicate,) if initialization == "initialization" else (replicate, level)
        return Seeds(
            initialization=derive_seed(seed, initialization, *initial),
            order=derive_seed(seed, "order", *key),
            augmentation=derive_seed(seed, "augmentation", *key),
        )

    def _augmentation(self) -> dict[str, Any]:
        setting = self.setting
        if setting.engine == "resident":
            return {"padding": setting.padding, "flip": setting.flip}
        return {"size": setting.train_size, "flip": setting.flip}

    def _eval(self) -> dict[str, Any]:
        setting = self.setting
        if setting.engine == "resident":
            return {}
        return {
            "size": setting.eval_size,
            "ratio": setting.eval_ratio,
            "interpolation": setting.eval_interpolation,
            "batch_size": setting.batch_size,
        }


def _check_level(level: int, least: int) -> None:
    if not isinstance(level, int) or level < least:
        raise SettingError(f"level is {level!r}; expected a whole number from {least}; level 0 is the dense network")
