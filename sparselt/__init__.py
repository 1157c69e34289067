"""sparselt: lottery-ticket experiments that train nothing twice.

The names below are loaded on first use, so that `import sparselt` is instant and needs neither a GPU nor FFCV.
"""

from importlib import import_module

from sparselt.errors import SparseltError

__version__ = "0.1.0"

_HOME = {
    "Mask": "sparselt.masks",
    "MaskedAdam": "sparselt.optim",
    "MaskedAdamW": "sparselt.optim",
    "MaskedRMSprop": "sparselt.optim",
    "MaskedSGD": "sparselt.optim",
    "densify_": "sparselt.models.sparsify",
    "fused_forward": "sparselt.training.fused_norm",
    "keep_masked": "sparselt.optim",
    "magnitude_prune": "sparselt.pruning",
    "prunable_parameters": "sparselt.weights",
    "prune": "sparselt.pruning",
    "sparsify_": "sparselt.models.sparsify",
    "winograd_": "sparselt.models.winograd",
}

_ROOMS = (
    "analysis",
    "criteria",
    "data",
    "experiments",
    "kernels",
    "models",
    "report",
    "reproduce",
    "runs",
    "siblings",
    "training",
)

__all__ = ["SparseltError", "__version__", *_HOME]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _ROOMS:
        return import_module(f"sparselt.{name}")
    raise AttributeError(f"module 'sparselt' has no attribute {name!r}")


def __dir__():
    return sorted([*__all__, *_ROOMS])
