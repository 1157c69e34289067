"""The step that all masked optimizers share, on a CPU and on a GPU. Each optimizer gives it a rule.

A rule says how one weight and its state change. This package does the rest: masks, live state, parameter groups, scaled
or missing gradients, first steps, threads and launches. After every step a masked weight and its state are exactly 0,
even if the rule made them NaN or infinite.

Parameters and gradients stay where they are. State and mask are flat arenas: each parameter's part has the parameter's
memory order (channels-last needs no copy) and is padded to a multiple of `PAD` weights. Several networks in one launch
are treated like layers: their parameters follow one another, and each network has its own groups. Memory in which no
weight lives is skipped, in sectors of 32 bytes on a GPU and in blocks of `PAD` weights on a CPU.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .._tensors import addresses_of
from .arguments import Launch, Options, check, is_shadowed
from .layout import Layout, padded_offsets

__all__ = ["Launch", "Operation", "Options"]

_library = torch.library.Library("sparselt", "FRAGMENT")


class Operation:
    """A masked optimizer's step, as the operator `torch.ops.sparselt.<name>` and as a function.

    name: of the operator.
    columns: a class made with `typing.NamedTuple`, of this operation alone: the hyperparameters that the rule reads,
        all floats; one row is one group. Every rule has `sign`, which multiplies the gradient; grad_scale divides it.
    buffers: numbers of state for each weight, 0 or more.
    rule: `rule(h, weight, gradient, state, step)`, a Python function that Numba can compile. It returns the new weight
        and a tuple of the new state. h: a row, by name. gradient: multiplied by h.sign. state: a tuple of `buffers`
        numbers, 0 in the first step. step: counts the parameter's steps from 1. Integers in the arithmetic make Numba
        compute in float64, even for float32 weights.
    prepare: `prepare(h, step)`, a Python function that Numba can compile. It returns a tuple of numbers, which the rule
        gets as its last argument instead of the step, rounded to the type of the state. It runs once for many weights,
        so powers and logarithms belong here. None: the rule gets the step.
    gpu_rule: a function without arguments that imports and returns the same rule in Triton, see `gpu.masked_kernel`;
        None: CPU only. It always gets the step: Triton computes with scalars once for 1,024 weights.
    kept_by: a column that is 0 for groups without state. Their state is not touched, and each of their steps is step 1.
        None: every group has state.
    name_of_state: the name of the state in the operator and in messages.
    """

    def __init__(
        self,
        name: str,
        columns: type[NamedTuple],
        buffers: int,
        rule: Callable,
        gpu_rule: Callable | None = None,
        *,
        prepare: Callable | None = None,
        kept_by: str | None = None,
        name_of_state: str = "state",
    ):
        self.name, self.columns, self.buffers = name, columns, buffers
        self.rule, self.gpu_rule, self.prepare = rule, gpu_rule, prepare
        self.kept_by, self.name_of_state = kept_by, name_of_state
        _library.define(
            f"{name}(Tensor(a!)[] parameters, Tensor[] gradients, Tensor(b!) {name_of_state}, Tensor mask, "
            "Tensor hyperparameters, int[] offsets, int[] groups, bool first_step, bool rewrite, Tensor? blocks=None, "
            "bool live_state=False, Tensor(c!)? steps=None, Tensor? grad_scale=None, Tensor? found_inf=None, "
            "Tensor(d!)? shadow=None) -> ()"
        )
        for device in ("CPU", "CUDA"):
            _library.impl(name, self._operator, device)
        torch.library.register_fake(f"sparselt::{name}", lambda *_arguments, **_options: None, lib=_library)

    def __call__(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        state: Tensor,
        mask: Tensor,
        hyperparameters: Tensor,
        *,
        offsets: Sequence[int] | None = None,
        groups: Sequence[int] | None = None,
        **options,
    ) -> None:
        """Updates `parameters` and `state` in place.

        parameters, gradients: equally many tensors of one device and one dtype, see `Launch`, each dense in memory, a
            gradient with its parameter's strides. With `shadow`, gradients of float32 parameters may be bfloat16.
        state, mask, hyperparameters: see `Launch`; state of a single buffer may be [length].
        offsets: where each parameter starts in the arenas, multiples of `PAD`; default: `padded_offsets`.
        groups: the row of `hyperparameters` of each parameter; default: row 0.
        options: see `Options`.
        Raises ValueError or TypeError, before anything is written, naming the position of the offending parameter.
        """
        parameters, gradients, given = list(parameters), list(gradients), Options(**options)
        offsets = padded_offsets([p.numel() for p in parameters])[0] if offsets is None else list(offsets)
        groups = [0] * len(parameters) if groups is None else list(groups)
        check(self, parameters, gradients, state, mask, hyperparameters, offsets, groups, given)
        values = [getattr(given, name) for name in Options.__slots__]
        with torch.no_grad():
            operator = getattr(torch.ops.sparselt, self.name)
            operator(parameters, gradients, state, mask, hyperparameters, offsets, groups, *values)

    def launch(self, launch: Launch) -> None:
        """The step without checks or dispatch, for an eager caller that has checked its arguments.

        For 60 tensors torch's dispatcher takes 14 µs, as long as everything else.
        """
        if launch.state.is_cuda:
            from .gpu import step
        else:
            from .cpu import step
        step(self, launch)

    def _operator(self, parameters, gradients, state, mask, hyperparameters, offsets, groups, *options) -> None:
        if not parameters:
            return
        shadowed = list(map(is_shadowed, parameters, gradients))
        places = [p.numel() for p in parameters], offsets, groups, shadowed
        device = parameters[0].device
        layout = _layout(device, *map(tuple, places)) if device.type == "cuda" else Layout(*places)
        self.launch(
            Launch(
                layout=layout,
                dtype=parameters[0].dtype,
                addresses=addresses_of(parameters, gradients),
                state=state.view(self.buffers, -1) if self.buffers else state,
                mask=mask,
                hyperparameters=hyperparameters,
                **dict(zip(Options.__slots__, options, strict=False)),
            )
        )
        torch.autograd.graph.increment_version(parameters)


@lru_cache(maxsize=64)
def _layout(device: torch.device, sizes: tuple, offsets: tuple, groups: tuple, shadowed: tuple) -> Layout:
    """A layout that is kept between calls, because its tables have been sent to `device`."""
    return Layout(sizes, offsets, groups, shadowed)
