"""ResNet-50 on ImageNet with the techniques of a fast recipe; otherwise the protocol of Paul et al. 2022."""

import dataclasses

from sparselt.experiments.setting import Setting
from sparselt.reproduce import imagenet_resnet50 as plain

_MILD = "Mosaic ResNet, mild recipe; Paul et al. 2022, appendix C, use its techniques without saying which"
_DIFFERENCE = "Paul et al. 2022 do not name the techniques that they add; here they are those of one public recipe."


def setting(scale: str) -> Setting:
    """The scales of `imagenet_resnet50`, with the mild techniques and smaller training crops."""
    base = plain.setting(scale)
    smoke = scale == "smoke"
    return dataclasses.replace(
        base,
        name="imagenet_resnet50_mild",
        title=f"{base.title}, mild recipe",
        model="resnet50_blurpool",
        techniques="mild",
        train_size=64 if smoke else 176,
        eval_size=64 if smoke else base.eval_size,  # not 32: progressive resizing halves them
        differences=(_DIFFERENCE,) if scale == "paper" else (),
        sources={
            **base.sources,
            "model": f"torchvision's ResNet-50 with blurred downsampling, 25,502,912 prunable weights; {_MILD}",
            "techniques": f"{_MILD}: binary cross-entropy, label smoothing 0.08, progressive resizing, weight average",
            "train_size": _MILD,
        },
    )
