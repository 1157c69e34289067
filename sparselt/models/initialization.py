"""Initial weights by name: torch's own, or those of open_lth and the papers that use it."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

Initialization = Literal["torch", "kaiming_normal", "glorot_normal", "low_res"]
NormScale = Literal["ones", "uniform"]


def initialize_(model: "nn.Module", initialization: Initialization = "torch", norm_scale: NormScale = "ones") -> None:
    """Initializes a fresh `model` in place, with torch's global generator.

    initialization: `torch` keeps the initial weights that each layer drew itself. `kaiming_normal` draws the weights of
        convolutions and fully connected layers from N(0, 2 / fan in) (He et al. 2015; open_lth's `kaiming_normal`),
        `glorot_normal` from N(0, 2 / (fan in + fan out)) (Glorot and Bengio 2010). Both keep biases. `low_res` draws
        the weights of all convolutions but the first from N(0, 2 / fan out), as in torchvision's ResNet whose first
        layer was replaced for small images (lth_diet's `low_res`, models/resnet.py).
    norm_scale: the scale of batch norms: `ones`, or drawn from [0, 1) (`uniform`, as in open_lth and the networks of
        Frankle et al.). The shift is 0 in both.
    """
    from torch import nn

    convolution, norms = nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm
    first = next((module for module in model.modules() if isinstance(module, convolution)), None)
    for module in model.modules():
        if initialization == "kaiming_normal" and isinstance(module, convolution | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        if initialization == "glorot_normal" and isinstance(module, convolution | nn.Linear):
            nn.init.xavier_normal_(module.weight)
        if initialization == "low_res" and isinstance(module, convolution) and module is not first:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if norm_scale == "uniform" and isinstance(module, norms) and module.affine:
            nn.init.uniform_(module.weight)
            nn.init.zeros_(module.bias)
