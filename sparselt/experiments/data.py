"""The data set of a run: checked against the setting, and named in its title."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparselt.errors import DataError, SettingError
from sparselt.experiments.setting import Setting, of_other_criterion

if TYPE_CHECKING:
    from sparselt.data import Dataset


def check_data(folder: Path | None, setting: Setting, dry_run: bool) -> "Dataset | None":
    """The betons of a folder, checked against the setting; None: the setting's own source."""
    from sparselt.data import open_dataset

    if folder is None:
        if setting.source is None:
            if dry_run:
                return None
            raise DataError(
                f"{setting.name} at scale {setting.scale} needs its images: give --data DIR, a folder with "
                "manifest.json, train.beton and test.beton, made by `sparselt data write imagenet PICTURES DIR`; or "
                "run --scale smoke, on made-up images"
            )
        found = setting.with_source(setting.source)
        for name in ("classes", "train_count", "test_count", "channels", "train_size"):
            if getattr(setting, name) != getattr(found, name):
                raise SettingError(
                    f"{name} is {getattr(setting, name)}, but {setting.name} has {getattr(found, name)}; "
                    "change it only together with --data"
                )
        return None
    dataset = open_dataset(folder)
    dataset.require(field="ndarray" if setting.engine == "resident" else "rgb_image")
    holds = {"classes": dataset.classes, "train_count": dataset.count("train"), "test_count": dataset.count("test")}
    if setting.engine == "resident":
        channels, height, width = dataset.record("train").shape
        if height != width:
            dataset.require(shape=(setting.channels, setting.train_size, setting.train_size))
        holds |= {"channels": channels, "train_size": height}
    if other := {name: value for name, value in holds.items() if value != getattr(setting, name)}:
        differing = "; ".join(f"{name} {value:,}, expected {getattr(setting, name):,}" for name, value in other.items())
        raise DataError(
            f"{folder} holds {dataset.manifest.source['kind']} data: {differing}, as {setting.name} at scale "
            f"{setting.scale} has them; choose the folder of its data set, or, for images of your own, "
            f"--set {' '.join(f'{name}={value}' for name, value in other.items())}"
        )
    return dataset


def titled(setting: Setting, usual: Setting, dataset: "Dataset | None") -> Setting:
    """The setting; its title names the data if they are not those that the title was written for."""
    if dataset is not None:
        if setting.source is None:
            other = usual.source is None and setting.classes != usual.classes
        else:
            other = dataset.manifest.source["kind"] != setting.source.kind
        if not other:
            return setting
        # A smoke test's title says what its own images are.
        retitled = replace(setting, title=setting.title.replace(" on synthetic images", ""))
        return retitled.retitled(f"data={dataset.folder.name}")
    own_titles = usual.title, of_other_criterion(usual.title)
    if type(setting.source) is not type(usual.source) and setting.title.startswith(own_titles):
        return setting.retitled(f"data={type(setting.source).__name__}")
    return setting
