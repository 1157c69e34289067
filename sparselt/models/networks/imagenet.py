"""torchvision's networks for ImageNet, with their own initializations. Input float [N, 3, H, W]; output [N, classes].

torchvision is imported when a network is built: loading it takes longer than building most of them.
"""

from typing import TYPE_CHECKING

from sparselt.errors import naming_extras
from sparselt.models.registry import model

if TYPE_CHECKING:
    from torch import nn


@model(channels=3)
@naming_extras()
def resnet50(classes: int, channels: int) -> "nn.Module":
    """ResNet-50 (He et al. 2016), Kaiming normal, fan out; 25,502,912 prunable weights for 1000 classes."""
    from torchvision.models import resnet50 as build

    return build(weights=None, num_classes=classes)


@model(channels=3, least_side=17)
def resnet50_blurpool(classes: int, channels: int) -> "nn.Module":
    """`resnet50` with every downsampling blurred first, see `apply_blurpool_`; its weights have the same names."""
    from sparselt.models.blurpool import apply_blurpool_

    network = resnet50(classes, channels)
    apply_blurpool_(network)
    return network


@model(channels=3, least_side=299)
@naming_extras()
def inception_v3(classes: int, channels: int) -> "nn.Module":
    """Inception-v3 with its auxiliary classifier, whose output in training `training_loss` weighs.

    27,123,040 prunable weights for 1000 classes; images of 299 pixels or more, as the auxiliary classifier takes them.
    """
    from torchvision.models import inception_v3 as build

    return build(weights=None, num_classes=classes, aux_logits=True, init_weights=True, transform_input=False)


@model(channels=3, least_side=32)
@naming_extras()
def squeezenet(classes: int, channels: int) -> "nn.Module":
    """SqueezeNet 1.0 (Iandola et al. 2016); 1,244,448 prunable weights for 1000 classes."""
    from torchvision.models import squeezenet1_0 as build

    return build(weights=None, num_classes=classes)
