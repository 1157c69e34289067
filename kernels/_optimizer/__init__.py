"""What any masked optimizer needs on a CPU and on a GPU, written once and given the rule of the optimizer.

A rule says how one weight and its state change. Everything around it stands here: masks, live state, parameter groups,
gradients that are scaled or missing, first steps, threads and launches. A masked weight and its state become exactly 0
after every step, whatever the rule made of them, also of NaN and infinity.

Parameters and gradients stay where their owner put them. State and mask are flat arenas, each parameter's part padded
to a multiple of `PAD` weights and in the physical order of the parameter's memory (channels-last needs no copy).
Networks of one launch are no different from layers: their parameters stand one after the other, with groups of their
own. On a GPU a 32-byte sector in which no weight lives is skipped, on a CPU a block of `PAD` weights.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .._tensors import addresses_of
from .arguments import Launch, Options, check
from .layout import Layout, padded_offsets

__all__ = ["Launch", "Operation", "Options"]

_library = torch.library.Library("sparselt", "FRAGMENT")


class Operation:
    """A masked optimizer's step, as the operator `torch.ops.sparselt.<name>` and as a function.

    name: of the operator.
    columns: a class made with `typing.NamedTuple`: the hyperparameters that the rule reads, each a float, one row a
        group. `sign`, which every rule has, multiplies the gradient; grad_scale divides it.
    buffers: how many numbers of state a weight has, 0 or more.
    rule: `rule(h, weight, gradient, state, step)`, a Python function that Numba can compile. It returns the new weight
        and a tuple of the new state. h: a row, by name. gradient: multiplied by h.sign. state: a tuple of `buffers`
        numbers, 0 in the first step. step: the parameter's count of steps with this one, from 1. An integer in
        arithmetic makes Numba compute in float64, also for float32 weights.
    gpu_rule: a function without arguments that imports and returns the same rule in Triton, see `gpu.masked_kernel`;
        None: CPU only.
    kept_by: the column that is 0 for a group without state; its state is not touched and each of its steps is step 1.
        None: every group has state.
    name_of_state: what the operator and messages call the state.
    """

    def __init__(
        self,
        name: str,
        columns: type[NamedTuple],
        buffers: int,
        rule: Callable,
        gpu_rule: Callable | None = None,
        *,
        kept_by: str | None = None,
        name_of_state: str = "state",
    ):
        self.name, self.columns, self.buffers = name, columns, buffers
        self.rule, self.gpu_rule, self.kept_by, self.name_of_state = rule, gpu_rule, kept_by, name_of_state
        _library.define(
            f"{name}(Tensor(a!)[] parameters, Tensor[] gradients, Tensor(b!) {name_of_state}, Tensor mask, "
            "Tensor hyperparameters, int[] offsets, int[] groups, bool first_step, bool rewrite, Tensor? blocks=None, "
            "bool live_state=False, Tensor(c!)? steps=None, Tensor? grad_scale=None, Tensor? found_inf=None) -> ()"
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
            gradient with its parameter's strides.
        state, mask, hyperparameters: see `Launch`; state of a single buffer may be [length].
        offsets: where each parameter starts in the arenas, multiples of `PAD`; default: `padded_offsets`.
        groups: the row of `hyperparameters` of each parameter; default: row 0.
        options: see `Options`.
        Raises ValueError or TypeError, before anything is written, naming the position of the offending parameter.
        """
        parameters, gradients, given = list(parameters), list(gradients), Options(**options)
        offsets = padded_offsets([p.numel() for p in parameters])[0] if offsets is None else list(offsets)
        groups = [0] * len(parameters) if groups is None else list(groups)
        check(
            parameters,
            gradients,
            state,
            mask,
            hyperparameters,
            offsets,
            groups,
            given,
            name_of_state=self.name_of_state,
            buffers=self.buffers,
            columns=len(self.columns._fields),
        )
        values = [getattr(given, name) for name in Options.__slots__]
        with torch.no_grad():
            operator = getattr(torch.ops.sparselt, self.name)
            operator(parameters, gradients, state, mask, hyperparameters, offsets, groups, *values)

    def launch(self, launch: Launch) -> None:
        """The step itself, unchecked, for an eager caller that has checked its arguments.

        Torch's dispatcher takes 14 µs for 60 tensors, as long as all the rest.
        """
        if launch.state.is_cuda:
            from .gpu import step
        else:
            from .cpu import step
        step(self, launch)

    def _operator(self, parameters, gradients, state, mask, hyperparameters, offsets, groups, *options) -> None:
        if not parameters:
            return
        sizes = [p.numel() for p in parameters]
        cuda = parameters[0].is_cuda
        layout = (
            _layout(parameters[0].device, tuple(sizes), *map(tuple, (offsets, groups)))
            if cuda
            else Layout(sizes, offsets, groups)
        )
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
def _layout(device: torch.device, sizes: tuple, offsets: tuple, groups: tuple) -> Layout:
    """A layout kept for the next call, because its tables have been sent to `device`."""
    return Layout(sizes, offsets, groups)
