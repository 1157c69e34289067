"""Registers the implementations of an operator, each imported at its first call."""

from functools import partial
from importlib import import_module
from typing import Any

from torch.library import Library


def implement(library: Library, operator: str, package: str, function: str, gpu: bool = True) -> None:
    """Runs `operator` by `function` of the package's module `cpu` on a CPU, and of its module `gpu` on a GPU.

    gpu: whether there is such a module.
    """
    for key, module in (("CPU", "cpu"), ("CUDA", "gpu"))[: 2 if gpu else 1]:
        library.impl(operator, partial(_call, f"{package}.{module}", function), key)


def _call(module: str, function: str, *arguments: Any) -> Any:
    return getattr(import_module(module), function)(*arguments)
