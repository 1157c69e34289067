"""What the stages of one setting have in common: data, network, device, precision and threads."""

from functools import cached_property
from pathlib import Path
from typing import Any

from sparselt.data import open_dataset, source_record
from sparselt.experiments.setting import Setting
from sparselt.models import model_digest
from sparselt.stages.data import HoldOut, Pixels, PrepareDataset, ReadPixels
from sparselt.stages.images import Crop, WholeImages
from sparselt.training.recipe import derive_seed


class StageArguments:
    """Arguments that the stages of one setting share.

    Args:
        setting: the protocol, checked.
        device: `cpu` or `cuda`.
        data: a folder of betons to use instead of the setting's source.
    """

    def __init__(self, setting: Setting, device: str = "cpu", data: Path | None = None):
        self.setting = setting
        self.device = device
        self.data = data
        common: dict[str, Any] = {"label": "data set", "work": setting.train_count + setting.test_count}
        if data is None:
            # A setting without a source needs the user's data. Without the data it can be planned, but not run.
            source = None if setting.source is None else source_record(setting.source)
            self.dataset = PrepareDataset(source=source, **common)
        else:
            fingerprint = open_dataset(data).manifest.fingerprint
            self.dataset = PrepareDataset(fingerprint=fingerprint, folder=str(data), **common)

    @cached_property
    def network_arguments(self) -> dict[str, Any]:
        """The architecture, as arguments of a stage: its name and sizes, and the digest of a user's own source file."""
        setting = self.setting
        return {
            "model": setting.model,
            "classes": setting.classes,
            "channels": setting.channels,
            "model_source": model_digest(setting.model),
        }

    @cached_property
    def image_arguments(self) -> dict[str, Any]:
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
    def evaluation_arguments(self) -> dict[str, Any]:
        """`image_arguments`, `network_arguments`, precision and threads, as arguments of a stage that evaluates
        (`sparselt.stages.images.Evaluation`).
        """
        setting = self.setting
        return {
            **self.image_arguments,
            **self.network_arguments,
            "precision": setting.eval_dtype,
            "threads": setting.threads,
            "winograd": True if setting.winograd and self.device == "cpu" else None,
        }
