"""Sources of images, the betons they are written to, and the loaders that read them.

    write_dataset(Digits(), folder); dataset = open_dataset(folder)
    loader = train_loader(dataset, 64, order_seed=0, augmentation_seed=0, transform=PadCrop(...), device="cpu")
    for batch in loader.epoch(3, start_step=5): ...

Arrays that fit the device are kept there (`ResidentData`, stored for many trainings by `write_resident`); all else is
streamed, through FFCV or, without it, Pillow. Both engines give the same samples and crops.

Which sample comes when, its crop and its flip are functions of (seed, epoch, index) alone.
"""

from importlib import import_module

_HOME = {
    "Batch": "batch",
    "Beton": "beton",
    "CIFAR10": "sources.downloaded",
    "CIFAR100": "sources.downloaded",
    "CenterCrop": "transforms",
    "Dataset": "dataset",
    "Digits": "sources.digits",
    "FashionMNIST": "sources.downloaded",
    "IMAGENET_MEAN": "transforms",
    "IMAGENET_STD": "transforms",
    "ImageFolder": "sources.folder",
    "MNIST": "sources.downloaded",
    "Manifest": "manifest",
    "Normalize": "transforms",
    "PadCrop": "transforms",
    "RandomResizedCrop": "transforms",
    "ResidentData": "resident",
    "ResidentEvalLoader": "resident",
    "ResidentTrainLoader": "resident",
    "Shard": "order",
    "Source": "sources.base",
    "SplitRecord": "manifest",
    "StreamingEvalLoader": "streaming",
    "StreamingTrainLoader": "streaming",
    "SyntheticImages": "sources.synthetic",
    "engine_for": "loaders",
    "eval_loader": "loaders",
    "eval_transform": "loaders",
    "evaluation_record": "evaluation",
    "open_dataset": "dataset",
    "sample_order": "order",
    "source_from_record": "sources",
    "source_record": "sources",
    "train_loader": "loaders",
    "train_transform": "loaders",
    "write_dataset": "writing",
    "write_held_out": "resident",
    "write_resident": "resident",
}

__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
