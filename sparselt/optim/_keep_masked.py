"""Masks for any torch optimizer."""

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparselt.errors import MaskError, SettingError
from sparselt.optim._arena import fitted_mask
from sparselt.weights import check_network


def keep_masked(optimizer: torch.optim.Optimizer, model: nn.Module, mask: Mapping[str, Tensor]) -> RemovableHandle:
    """Keeps masked weights of `model` and their state in any torch optimizer at exactly 0.0 after every step.

    Zeroes masked weights now and after each `optimizer.step()`, and their places in every tensor of the optimizer's
    state that has the parameter's shape (Adam's exp_avg and exp_avg_sq, RMSprop's square_avg, any momentum buffer).
    This takes another pass over each of these tensors; `MaskedSGD` needs none. The state of an optimizer inside, which
    `ZeroRedundancyOptimizer` has in its attribute `optim`, is kept so too.

    mask: bool tensors by parameter name (a `sparselt.Mask`), True where a weight lives; parameters without one are
        dense.
    Returns a handle; its `remove()` ends the masking. To change the mask, remove the handle and call this again.
    Raises, before anything is written: MaskError if the mask is none, does not fit the model, or has a layer whose
    parameter the optimizer does not have; SettingError for arguments of other kinds, and for LBFGS, whose state is
    vectors of all weights.

    >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    >>> keep_masked(optimizer, model, mask)
    """
    if not hasattr(optimizer, "param_groups"):
        raise SettingError(
            f"optimizer is a {type(optimizer).__name__}; expected a torch optimizer, as in "
            "keep_masked(optimizer, model, mask)"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise SettingError(
            "optimizer is an LBFGS, whose state is vectors of all weights, where masked ones are not kept at zero; "
            "expected one with state by parameter, such as Adam or SGD"
        )
    check_network(model)
    parameters = dict(model.named_parameters())
    if mask is None:
        raise MaskError("mask is None; expected a sparselt.Mask, or bool tensors by parameter name")
    layers = fitted_mask(mask, parameters, "the model")
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name in layers:
        if id(parameters[name]) not in known:
            raise MaskError(f"the mask has a layer {name!r}, whose parameter the optimizer does not have: add it there")
    masked = [(parameters[name], ~layer) for name, layer in layers.items()]

    @torch.no_grad()
    def zero(*_: object) -> None:
        # Looked up in each step, because ZeroRedundancyOptimizer may make its optimizer late.
        states = [optimizer.state, getattr(getattr(optimizer, "optim", None), "state", {})]
        for parameter, gone in masked:
            for tensor in (parameter, *chain.from_iterable(state.get(parameter, {}).values() for state in states)):
                if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                    tensor.masked_fill_(gone.to(tensor.device), 0)

    zero()
    return optimizer.register_step_post_hook(zero)
