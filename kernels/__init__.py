"""The compiled operations under the optimizers, the analyses and the data path, for CPU (Numba) and GPU (Triton).

Each works alone and is a `torch.library` operator, so it runs under `torch.compile` and in a CUDA graph. This package
imports nothing from the rest of sparselt. Triton is imported with the first CUDA tensor.
"""

from .augment import augment
from .conv_bn import conv_bn
from .interpolate import interpolate
from .magnitude import magnitude_mask, magnitude_threshold
from .masked_sgd import masked_sgd_
from .norm_act import norm_act
from .sparse_conv2d import pattern_of, sparse_conv2d, sparse_linear
from .winograd import winograd_conv2d

__all__ = [
    "augment",
    "conv_bn",
    "interpolate",
    "magnitude_mask",
    "magnitude_threshold",
    "masked_sgd_",
    "norm_act",
    "pattern_of",
    "sparse_conv2d",
    "sparse_linear",
    "winograd_conv2d",
]
