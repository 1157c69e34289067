"""The stages that experiments are made of, for one setting: the same question always gives the same stage."""

from pathlib import Path
from typing import Any

from sparselt.data import open_dataset, source_record
from sparselt.experiments.setting import Setting
from sparselt.runs.stage import Need, Stage, plain
from sparselt.training.recipe import Seeds, derive_seed


class Lab:
    """Builds stages; runs nothing.

    Args:
        setting: the protocol, checked.
        device: `cpu` or `cuda`.
        data: a folder of betons to take in place of the setting's own source.
    """

    def __init__(self, setting: Setting, device: str = "cpu", data: Path | None = None):
        self.setting = setting
        self.device = device
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
        self._data: dict[str, Need] = {"dataset": note}
        if setting.engine == "resident":
            resident = Stage("resident", {}, {"dataset": note}, label="pixels", steps=count)
            self._data["train"] = resident.file("train.safetensors")
            self._data["test"] = resident.file("test.safetensors")

    def dense(self, replicate: int) -> Stage:
        """Level 0: the dense network, from initialization. One training for every rewind step and experiment."""
        return self._train(self._seeds(replicate, 0), label=f"dense, replicate {replicate}")

    def checkpoint(self, replicate: int, step: int) -> Need:
        """The dense network as it stood at `step`."""
        return self.dense(replicate).file(f"step-{step}.safetensors")

    def mask(self, replicate: int, rewind_step: int, level: int) -> Need:
        """The mask of IMP level `level` ≥ 1: the level before, pruned."""
        if (replicate, rewind_step, level) in self._masks:
            return self._masks[replicate, rewind_step, level]
        setting = self.setting
        spec: dict[str, Any] = {"fraction": setting.fraction, "scope": setting.scope}
        before = self.ticket(replicate, rewind_step, level - 1)
        needs = {"weights": before.file("final.safetensors")}
        if level > 1:
            needs["mask"] = self.mask(replicate, rewind_step, level - 1)
        else:
            spec |= {"model": setting.model, "classes": setting.classes, "channels": setting.channels}
        label = f"mask, replicate {replicate}, rewind {rewind_step}, level {level}"
        mask = Stage("prune", spec, needs, label=label, steps=1).file("mask.safetensors")
        self._masks[replicate, rewind_step, level] = mask
        return mask

    def ticket(self, replicate: int, rewind_step: int, level: int) -> Stage:
        """IMP with weight rewinding: the network of `level`, rewound to `rewind_step` and trained to the end."""
        if level == 0:
            return self.dense(replicate)
        return self._rewound(
            replicate,
            rewind_step,
            level,
            self.mask(replicate, rewind_step, level),
            f"replicate {replicate}, rewind {rewind_step}, level {level}",
        )

    def random_control(self, replicate: int, rewind_step: int, level: int) -> Stage:
        """A random mask of the ticket's layerwise densities, on the ticket's own rewound weights."""
        seed = derive_seed(self.setting.seed, "random mask", replicate, rewind_step, level)
        like = {"mask": self.mask(replicate, rewind_step, level)}
        mask = Stage(
            "random_mask", {"seed": seed}, like, label=f"random mask, replicate {replicate}, level {level}", steps=1
        )
        label = f"random control, replicate {replicate}, level {level}"
        return self._rewound(replicate, rewind_step, level, mask.file("mask.safetensors"), label)

    def reinit_control(self, replicate: int, rewind_step: int, level: int) -> Stage:
        """The ticket's mask on a fresh initialization, trained in full: it has no first steps to be rewound to."""
        seeds = self._seeds(replicate, level, rewind_step, initialization="reinitialization")
        label = f"reinitialized control, replicate {replicate}, level {level}"
        return self._train(seeds, mask=self.mask(replicate, rewind_step, level), label=label)

    def path(self, first: Stage, second: Stage, label: str) -> Stage:
        """Error and loss on the straight line between two trained networks."""
        setting = self.setting
        spec = {
            "model": setting.model,
            "classes": setting.classes,
            "channels": setting.channels,
            "points": setting.path_points,
            "batch_norm": "interpolated",
            "precision": setting.precision,
            "threads": setting.threads,
            "device": self.device,
            "engine": setting.engine,
            "eval": self._eval(),
        }
        needs = {"first": first.file("final.safetensors"), "second": second.file("final.safetensors"), **self._data}
        return Stage("path", spec, needs, frozenset({"path.json"}), label, steps=setting.path_points)

    def _rewound(self, replicate: int, rewind_step: int, level: int, mask: Need, label: str) -> Stage:
        needs = {"weights": self.checkpoint(replicate, rewind_step), "mask": mask}
        if self.setting.rewound_momentum == "restored" and rewind_step > 0:
            needs["momentum"] = self.dense(replicate).file(f"momentum-{rewind_step}.safetensors")
        return self._train(self._seeds(replicate, level, rewind_step), start_step=rewind_step, label=label, **needs)

    def _train(self, seeds: Seeds, *, start_step: int = 0, label: str, **needs: Need) -> Stage:
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
        outputs = frozenset({"measurements.json"})
        return Stage("train", spec, {**self._data, **needs}, outputs, label, steps=setting.steps - start_step)

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

    def _seeds(self, replicate: int, level: int, rewind_step: int = 0, initialization: str = "initialization") -> Seeds:
        varies: dict[str, tuple[int, ...]] = {
            "never": (),
            "replicate": (replicate,),
            "level": (replicate, rewind_step, level) if level else (replicate, 0, 0),
        }
        key = varies[self.setting.reshuffle]
        seed = self.setting.seed
        initial = (replicate,) if initialization == "initialization" else (replicate, level)
        return Seeds(
            initialization=derive_seed(seed, initialization, *initial),
            order=derive_seed(seed, "order", *key),
            augmentation=derive_seed(seed, "augmentation", *key),
        )
