"""Registers the implementations of an operator, each imported at its first call."""

from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import Library


def implement(library: Library, operator: str, package: str, function: str, gpu: bool = True) -> None:
    """Runs `operator` by `function` of the package's module `cpu` on a CPU, and of its module `gpu` on a GPU.

    gpu: whether there is such a module.
    """
    for key, module in (("CPU", "cpu"), ("CUDA", "gpu"))[: 2 if gpu else 1]:
        library.impl(operator, partial(_call, f"{package}.{module}", function), key)


def refuse_forward_mode(operator: str, *tensors: Tensor | None) -> None:
    """Raises NotImplementedError for tensors with a forward-mode tangent: torch would give a derivative of zero.

    While torch.compile traces, no tangent can be seen, so every tensor is refused. Torch then runs the function without
    compiling it, and only tensors with a tangent are refused.
    """
    if forward_ad._current_level >= 0:
        compiling = torch.compiler.is_compiling()
        for tensor in tensors:
            if tensor is not None and (compiling or forward_ad.unpack_dual(tensor).tangent is not None):
                raise NotImplementedError(
                    f"{operator} has no forward-mode derivative (torch.func.jvp, forward_ad): use reverse mode"
                )


def _call(module: str, function: str, *arguments: Any) -> Any:
    return getattr(import_module(module), function)(*arguments)
