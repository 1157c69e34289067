"""Sources of images, the betons they are written to, and the loaders that read them.

    write_dataset(Digits(), folder); dataset = open_dataset(folder)
    write_resident(dataset, cache); resident = ResidentData.open(cache)
    loader = ResidentTrainLoader(resident, 64, order_seed=0, augmentation_seed=0, transform=PadCrop(...), device="cpu")
    for batch in loader.epoch(3, start_step=5): ...

Which sample comes when, its crop and its flip are functions of (seed, epoch, index) alone.
"""

from importlib import import_module

_HOME = {
    "Batch": "batch",
    "CenterCrop": "transforms",
    "Dataset": "dataset",
    "Digits": "sources",
    "IMAGENET_MEAN": "transforms",
    "IMAGENET_STD": "transforms",
    "ImageFolder": "sources",
    "Manifest": "manifest",
    "Normalize": "transforms",
    "PadCrop": "transforms",
    "RandomResizedCrop": "transforms",
    "ResidentData": "resident",
    "ResidentEvalLoader": "resident",
    "ResidentTrainLoader": "resident",
    "SplitRecord": "manifest",
    "StreamingEvalLoader": "streaming",
    "StreamingTrainLoader": "streaming",
    "SyntheticImages": "sources",
    "open_dataset": "dataset",
    "sample_order": "order",
    "source_record": "sources",
    "write_dataset": "writing",
    "write_resident": "resident",
}

__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
