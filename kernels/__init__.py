"""Operations that the fused optimizers and the data path need, each usable alone, on CPU (Numba) and GPU (Triton).

Each is a `torch.library` operator: it works under `torch.compile` and in a CUDA graph. Nothing here knows of the rest
of sparselt, and Triton is imported when the first CUDA tensor comes.
"""

from .augment import augment
from .interpolate import interpolate
from .magnitude import magnitude_mask, magnitude_threshold
from .masked_sgd import masked_sgd_

__all__ = ["augment", "interpolate", "magnitude_mask", "magnitude_threshold", "masked_sgd_"]
