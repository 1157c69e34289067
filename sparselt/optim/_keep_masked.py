"""Masks for any torch optimizer."""

from collections.abc import Mapping

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
    This takes another pass over each of these tensors; `MaskedSGD` needs none.

    mask: bool tensors by parameter name (a `sparselt.Mask`), True where a weight lives; parameters without one are
        dense.
    Returns a handle; its `remove()` ends the masking. To change the mask, remove the handle and call this again.
    Raises, before anything is written: MaskError if the mask is none, does not fit the model, or has a layer whose
    parameter the optimizer does not have; SettingError for arguments of other kinds.

    >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    >>> keep_masked(optimizer, model, mask)
    """
    if not hasattr(optimizer, "param_groups"):
        raise SettingError(
            f"optimizer is a {type(optimizer).__name__}; expected a torch optimizer, as in "
            "keep_masked(optimizer, model, mask)"
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
        for parameter, gone in masked:
            state = optimizer.state.get(parameter, {})
            for tensor in (parameter, *state.values()):
                if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                    tensor.masked_fill_(gone.to(tensor.device), 0)

    zero()
    return optimizer.register_step_post_hook(zero)
