"""MaskedSGD: `torch.optim.SGD` for networks with masks, one fused pass over all weights."""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain

import torch
from torch import Tensor

from sparselt.arena import Arena, check_mask
from sparselt.errors import SettingError
from sparselt.kernels.masked_sgd import COLUMNS, launch, same_order


class MaskedSGD(torch.optim.Optimizer):
    """SGD in which a masked weight and its momentum are exactly 0.0 after every step, whatever gradient came in.

    params: `model.named_parameters()`, or groups of such; plain parameters without a mask. All of one device and one
        dtype (float32, bfloat16 with float32 momentum; float64 on a CPU).
    lr, momentum, dampening, weight_decay, nesterov, maximize: as in `torch.optim.SGD`, also per group. lr may be a
        tensor.
    decoupled_weight_decay: multiply each weight by 1 - (lr / initial_lr)·weight_decay instead of adding weight_decay·w
        to the gradient, as Paul et al. 2022 (Unmasking) do on ImageNet (decoupled SGD of the Mosaic recipes): the decay
        follows the schedule but not the base learning rate. initial_lr is the group's first lr, under the key that
        torch's schedulers use. For the meaning of AdamW, 1 - lr·decay, give weight_decay = decay·lr.
    mask: bool tensors by parameter name (a `sparselt.Mask`), True where a weight lives; parameters without one are
        dense. Weights masked at construction are set to 0. None: every weight lives, and this is `torch.optim.SGD`.

    `state_dict()` loads into `torch.optim.SGD` and back; the mask is not part of it. Parameters may be moved, reloaded
    or brought to another memory format at any time. Under a CUDA graph call `refresh()` before a replay once a
    hyperparameter or a weight was changed from outside.

    Raises SettingError and MaskError (both ValueError), naming the parameter, before anything is written.
    """

    _arena: Arena | None = None
    _mask: Mapping[str, Tensor] | None = None

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        mask: Mapping[str, Tensor] | None = None,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        _check_group(defaults)
        super().__init__(params, defaults)
        self._build()
        self.set_mask(mask)

    @property
    def mask(self) -> Mapping[str, Tensor] | None:
        """The mask as it was given; None: every weight lives."""
        return self._mask

    def set_mask(self, mask: Mapping[str, Tensor] | None) -> None:
        """Train under another mask from now on. Weights and momentum that it masks are set to 0."""
        check_mask(mask, self._by_name())
        self._current_arena()
        self._mask = mask
        self._arena.set_masks(self._masks())
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Zero what is masked and hand changed hyperparameters to the device.

        `step` does so by itself. A replayed CUDA graph cannot: call this before one when either was changed.
        """
        arena = self._current_arena()
        for parameter, buffer, mask in zip(arena.parameters, arena.buffers, self._masks(), strict=True):
            if mask is not None:
                gone = ~mask.to(arena.device)
                parameter.masked_fill_(gone, 0)
                buffer.masked_fill_(gone, 0)
        self._send_hyperparameters()
        self._versions = [p._version for p in arena.parameters]

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step for every parameter that has a gradient. closure: evaluates the model again and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        arena = self._current_arena()
        gradients = [p.grad for p in arena.parameters]
        if self._is_new or not self._ready(gradients):
            gradients = [self._fitted(gradient, i) for i, gradient in enumerate(gradients)]
        present = [i for i, gradient in enumerate(gradients) if gradient is not None]
        new = [] if self._all_have_momentum() else [i for i in present if not self._has_momentum(i)]
        self._send_hyperparameters()
        # On a GPU masked weights are left alone, unless someone else wrote to the parameters since the last step.
        rewrite = [p._version for p in arena.parameters] != self._versions
        if new:
            started = set(new)
            self._launch(gradients, new, True, rewrite)
            present = [i for i in present if i not in started]
        self._launch(gradients, present, False, rewrite)
        self._versions = [p._version for p in arena.parameters]
        self._is_new = False
        return loss

    def add_param_group(self, param_group: dict) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            _check_group(group)
            if self._arena is not None:
                self._build()
        except SettingError:
            self.param_groups.pop()
            raise
        if group["decoupled_weight_decay"]:
            # Only here: a scheduler takes initial_lr for its base, and a user may still change lr before making one.
            group.setdefault("initial_lr", float(group["lr"]))

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over what `state_dict()` of this class or of `torch.optim.SGD` returned; masked momentum becomes 0."""
        saved = dict(
            zip(
                self._all_parameters(),
                chain.from_iterable(group["params"] for group in state_dict["param_groups"]),
                strict=False,  # what does not match is refused by torch, below
            )
        )
        loaded = {
            p: state_dict["state"][key]["momentum_buffer"]
            for p, key in saved.items()
            if state_dict["state"].get(key, {}).get("momentum_buffer") is not None
        }
        for name, p in zip(self._names(), saved, strict=False):
            if p in loaded and loaded[p].shape != p.shape:
                raise SettingError(
                    f"the saved momentum of {name} has shape {tuple(loaded[p].shape)}, the parameter {tuple(p.shape)}: "
                    "is it the state of another model?"
                )
        super().load_state_dict(state_dict)
        # Torch has rounded the buffers to the parameters' dtype, which is too coarse for momentum under bfloat16.
        self.state.update({p: {"momentum_buffer": b} for p, b in loaded.items() if p.dtype == torch.bfloat16})
        for i in range(len(self._current_arena().parameters)):
            self._has_momentum(i)
        self.refresh()

    def __getstate__(self) -> dict:
        return {**super().__getstate__(), "_mask": self._mask}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for key in ("nesterov", "maximize", "decoupled_weight_decay"):
                group.setdefault(key, False)
            if group["decoupled_weight_decay"]:
                group.setdefault("initial_lr", float(group["lr"]))

    def _current_arena(self) -> Arena:
        if self._arena is None or not self._arena.fits():
            self._build()
        return self._arena

    def _build(self) -> None:
        """A new arena, with the momentum of the old one (found through `state`)."""
        parameters = self._all_parameters()
        check_mask(self._mask, self._by_name())
        for name, p in zip(self._names(), parameters, strict=True):
            buffer = self.state[p].get("momentum_buffer") if p in self.state else None
            if buffer is not None and buffer.shape != p.shape:
                raise SettingError(
                    f"{name} has shape {tuple(p.shape)}, its momentum {tuple(buffer.shape)}: "
                    "build a new optimizer for it"
                )
        arena = Arena(parameters, self._names(), self._masks())
        self._groups = [g for g, group in enumerate(self.param_groups) for _ in group["params"]]
        kind = torch.float64 if arena.device.type == "cpu" else torch.float32
        self._hyperparameters = torch.zeros(len(self.param_groups), len(COLUMNS), dtype=kind, device=arena.device)
        self._buffer_ids = list(map(id, arena.buffers))
        self._sent: list | None = None
        self._versions: list[int] = []
        self._is_new = True  # gradients may be of an earlier state of the parameters
        self._arena = arena

    def _launch(self, gradients: list, chosen: list[int], first_step: bool, rewrite: bool) -> None:
        arena = self._arena
        parameters, offsets, groups = arena.parameters, arena.offsets, self._groups
        if len(chosen) < len(parameters):
            parameters, gradients, offsets, groups = (
                [everything[i] for i in chosen] for everything in (parameters, gradients, offsets, groups)
            )
        launch(
            parameters,
            gradients,
            arena.momentum,
            arena.mask,
            self._hyperparameters,
            offsets,
            groups,
            first_step,
            rewrite,
        )

    def _ready(self, gradients: list[Tensor | None]) -> bool:
        """Whether the kernel can take every gradient as it is. In every step, so without a loop in Python."""
        try:
            return list(map(Tensor.stride, gradients)) == self._arena.strides and (
                [gradient.dtype for gradient in gradients] == self._arena.dtypes
            )
        except (TypeError, RuntimeError):  # a parameter without a gradient; a sparse gradient
            return False

    def _all_have_momentum(self) -> bool:
        """Whether `state` holds exactly our buffers, in order. In every step, so without hashing tensors."""
        return [id(state.get("momentum_buffer")) for state in self.state.values()] == self._buffer_ids

    def _has_momentum(self, i: int) -> bool:
        """Whether parameter i has a buffer or needs none. If not, `state` gets ours, to be filled by a first step."""
        if self.param_groups[self._groups[i]]["momentum"] == 0:
            return True
        state, buffer = self.state[self._arena.parameters[i]], self._arena.buffers[i]
        found = state.get("momentum_buffer")
        if found is buffer:
            return True
        state["momentum_buffer"] = buffer
        if found is None:
            return False
        buffer.copy_(found.detach())
        self._versions = []  # what was copied in may be nonzero under the mask
        return True

    def _fitted(self, gradient: Tensor | None, i: int) -> Tensor | None:
        """The gradient laid out like its parameter, or SettingError where that is impossible."""
        if gradient is None:
            return None
        parameter = self._arena.parameters[i]
        if gradient.layout != torch.strided:
            raise SettingError(f"the gradient of {self._names()[i]} is {gradient.layout}: MaskedSGD needs a dense one")
        if (gradient.shape, gradient.dtype, gradient.device) != (parameter.shape, parameter.dtype, parameter.device):
            raise SettingError(
                f"the gradient of {self._names()[i]} is {gradient.dtype} {tuple(gradient.shape)} on {gradient.device}, "
                f"the parameter {parameter.dtype} {tuple(parameter.shape)} on {parameter.device}: "
                "it is of an earlier state of the model; call zero_grad() first"
            )
        return gradient if same_order(gradient, parameter) else torch.empty_like(parameter).copy_(gradient.detach())

    def _send_hyperparameters(self) -> None:
        on_device = [(g, group) for g, group in enumerate(self.param_groups) if _is_on_gpu(group["lr"])]
        rows = [_row(group, 0.0 if _is_on_gpu(group["lr"]) else float(group["lr"])) for group in self.param_groups]
        if rows != self._sent:
            if self._hyperparameters.is_cuda and torch.cuda.is_current_stream_capturing():
                raise SettingError("hyperparameters changed while a CUDA graph is captured: call refresh() before")
            values = torch.tensor(rows, dtype=self._hyperparameters.dtype, pin_memory=self._hyperparameters.is_cuda)
            self._hyperparameters.copy_(values, non_blocking=True)
            self._sent = rows
        for g, group in on_device:
            self._hyperparameters[g, 0].copy_(group["lr"].view(()))
            if group["decoupled_weight_decay"]:
                self._hyperparameters[g, 4].copy_(
                    1 - group["lr"].view(()) * (group["weight_decay"] / group["initial_lr"])
                )

    def _names(self) -> list[str]:
        return [
            name
            for g, group in enumerate(self.param_groups)
            for name in group.get("param_names", [f"parameter {i} of group {g}" for i in range(len(group["params"]))])
        ]

    def _by_name(self) -> dict[str, Tensor] | None:
        if any("param_names" not in group for group in self.param_groups):
            return None
        return dict(zip(self._names(), self._all_parameters(), strict=True))

    def _all_parameters(self) -> list[Tensor]:
        return list(chain.from_iterable(group["params"] for group in self.param_groups))

    def _masks(self) -> list[Tensor | None]:
        return [None if self._mask is None else self._mask.get(name) for name in self._names()]


def _row(group: dict, lr: float) -> list[float]:
    """One row of `COLUMNS`."""
    decay, decoupled = group["weight_decay"], group["decoupled_weight_decay"]
    return [
        lr,
        group["momentum"],
        1 - group["dampening"],
        0.0 if decoupled else decay,
        1 - lr / group["initial_lr"] * decay if decoupled else 1.0,
        -1.0 if group["maximize"] else 1.0,
        1.0 if group["nesterov"] else 0.0,
    ]


def _is_on_gpu(value: float | Tensor) -> bool:
    return isinstance(value, Tensor) and value.is_cuda


def _check_group(group: dict) -> None:
    """What `torch.optim.SGD` refuses of its defaults, for every group."""
    if isinstance(group["lr"], Tensor) and group["lr"].numel() != 1:
        raise SettingError(f"lr is a tensor of {group['lr'].numel()} elements: expected 1")
    for key in ("lr", "momentum", "weight_decay"):
        if not group[key] >= 0:
            raise SettingError(f"{key} is {group[key]}: expected 0 or more")
    if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
        raise SettingError("nesterov needs a momentum above 0 and dampening 0")
    if group["decoupled_weight_decay"] and not group.get("initial_lr", group["lr"]) > 0:
        raise SettingError(
            "decoupled_weight_decay divides by the first lr, which is 0: give the base learning rate as lr"
        )
