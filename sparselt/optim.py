"""MaskedSGD: `torch.optim.SGD` for networks with masks, one fused pass over all weights of one or several."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from sparselt.arena import Arena, check_mask
from sparselt.errors import SettingError
from sparselt.hyperparameters import Hyperparameters, check_group, check_nesterov, has_momentum
from sparselt.kernels.masked_sgd import Layout, launch, same_order
from sparselt.networks import groups_of_networks, mask_of_networks
from sparselt.optimizer_state import check_momentum, expanded_state, momentum_of, saved_momentum


class MaskedSGD(torch.optim.Optimizer):
    """SGD in which a masked weight and its momentum are exactly 0.0 after every step, whatever gradient came in.

    params: `model.named_parameters()`, or groups of such; plain parameters without a mask. All of one device and one
        dtype (float32, bfloat16 with float32 momentum; float64 on a CPU). For several networks see `of_networks`.
    lr, momentum, dampening, weight_decay, nesterov, maximize: as in `torch.optim.SGD`, also per group. The first four
        may be tensors of one element. One on the GPU is read there, also in the replays of a CUDA graph; momentum that
        is a tensor counts as nonzero for `state`.
    decoupled_weight_decay: multiply each weight by 1 - (lr / initial_lr)·weight_decay instead of adding weight_decay·w
        to the gradient, as Paul et al. 2022 (Unmasking) do on ImageNet (decoupled SGD of the Mosaic recipes): the decay
        follows the schedule but not the base learning rate. initial_lr is the group's first lr, under the key that
        torch's schedulers use. For the meaning of AdamW, 1 - lr·decay, give weight_decay = decay·lr.
    mask: bool tensors by parameter name (a `sparselt.Mask`), True where a weight lives; parameters without one are
        dense. Weights masked at construction are set to 0. None: every weight lives, and this is `torch.optim.SGD`.
    live_momentum: store momentum for live weights only: 4 bytes for each, at most 28 more a block of 1,024 weights, in
        place of 4 a weight. The results are the same to the bit. `state` then holds flat pieces, `state_dict()`
        momentum in the shape of its parameter as always.

    `state_dict()` loads into `torch.optim.SGD` and back; the mask is not part of it. Parameters may be moved, reloaded
    or brought to another memory format at any time. On a GPU masked memory is not written again in every step: call
    `refresh()` after writing through `p.data`, which torch does not count as a write, and before the replay of a CUDA
    graph once a hyperparameter or a weight was changed from outside.

    With `torch.amp.GradScaler` the kernel divides by the scale, and a step that finds an infinity changes nothing at
    all: a parameter's first step is its first that is not skipped. Nothing waits for the GPU to know. `p.grad` stays
    scaled (torch's fused SGD divides it in place). The scaler looks for infinities in all gradients, also of masked
    weights.

    Raises SettingError and MaskError (both ValueError), naming the parameter, before anything is written.
    """

    _step_supports_amp_scaling = True
    _arena: Arena | None = None
    _mask: Mapping[str, Tensor] | None = None
    _live_momentum = False

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-3,
        momentum: float | Tensor = 0,
        dampening: float | Tensor = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        mask: Mapping[str, Tensor] | None = None,
        live_momentum: bool = False,
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
        check_group(defaults)
        check_nesterov(defaults)
        self._live_momentum = live_momentum
        super().__init__(params, defaults)
        check_mask(mask, self._by_name())
        self._mask = mask
        self._build()
        self.refresh()

    @classmethod
    def of_networks(
        cls,
        networks: Sequence[nn.Module],
        masks: Sequence[Mapping[str, Tensor] | None] | None = None,
        *,
        live_momentum: bool = False,
        **options,
    ) -> "MaskedSGD":
        """One optimizer, and one launch a step, for K networks; each gets to the bit what it gets alone.

        masks: K masks by the networks' own parameter names; None, for one or all of them: every weight lives.
        options: as of `MaskedSGD`, each one value for all networks or a sequence of K.
        Network k is group k, which also says "network": k; its parameters are called "k.name", as in `mask`.
        Raises SettingError and MaskError, naming the network.
        """
        networks = list(networks)
        groups, shared = groups_of_networks(networks, options)
        return cls(groups, mask=mask_of_networks(networks, masks), live_momentum=live_momentum, **shared)

    @property
    def mask(self) -> Mapping[str, Tensor] | None:
        """The mask as it was given; None: every weight lives."""
        return self._mask

    def set_mask(self, mask: Mapping[str, Tensor] | None) -> None:
        """Train under another mask from now on. What it masks is set to 0, other momentum stays.

        A CUDA graph that was captured before keeps the old one: capture again.
        """
        check_mask(mask, self._by_name())
        arena = self._current_arena()
        self._adopt_state()
        ours = [i for i, p in enumerate(arena.parameters) if momentum_of(self.state, p) is arena.buffers[i]]
        self._mask = mask
        arena.set_masks(self._masks())
        for i in ours:
            self.state[arena.parameters[i]]["momentum_buffer"] = arena.buffers[i]
        self._remember_state()
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Zero what is masked and hand changed hyperparameters to the device.

        `step` does so by itself. A replayed CUDA graph cannot: call this before one when either was changed.
        """
        arena = self._current_arena()
        for i, mask in enumerate(self._masks()):
            if mask is not None:
                gone = ~mask.to(arena.device)
                arena.parameters[i].masked_fill_(gone, 0)
                arena.zero_masked(i, gone)
        self._hyperparameters.send(self.param_groups)
        self._last_written = self._written(arena.addresses([None] * len(arena.parameters)))

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step for every parameter that has a gradient. closure: evaluates the model again and returns the loss."""
        # Torch wraps every `step` for its profiler and for hooks, which takes a quarter of a small network's step.
        if torch.autograd._profiler_enabled() or self._has_hooks():
            return self._observed_step(closure)
        return self._step(closure)

    step.hooked = True  # torch's own mark of a wrapped function

    def _has_hooks(self) -> bool:
        own = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        return bool(own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)

    def _step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        arena = self._arena or self._current_arena()
        gradients = [p.grad for p in arena.parameters]
        addresses = arena.addresses(gradients)
        if addresses is None:
            arena = self._current_arena()
            gradients = [self._fitted(gradient, i) for i, gradient in enumerate(gradients)]
            addresses = arena.addresses(gradients)
        parameters = written = arena.parameters
        if arena.some_missing:
            written = [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
        grad_scale, found_inf = self._from_scaler("grad_scale"), self._from_scaler("found_inf")
        if found_inf is not None and not found_inf.is_cuda and found_inf.item() != 0:
            return loss  # on a GPU the kernel sees to it
        if not self._state_is_ours(gradients):
            self._adopt_state(gradients)
        self._hyperparameters.send(self.param_groups)
        # On a GPU masked memory is left alone, unless someone else wrote to the parameters since the last step.
        on_gpu = arena.device.type == "cuda"
        launch(
            self._layout,
            arena.dtype,
            addresses,
            arena.momentum,
            arena.mask,
            self._hyperparameters.rows,
            False,
            not on_gpu or self._written(addresses) != self._last_written,
            arena.blocks,
            self._live_momentum,
            arena.begun,
            grad_scale,
            found_inf,
        )
        torch.autograd.graph.increment_version(written)
        if on_gpu:
            self._last_written = self._written(addresses)
        return loss

    _observed_step = torch.optim.Optimizer.profile_hook_step(_step)

    def add_param_group(self, param_group: dict) -> None:
        for key in ("mask", "live_momentum"):
            if key in param_group:
                raise SettingError(f"a parameter group has {key!r}: give it to MaskedSGD, for all groups")
        asked_for_nesterov = bool(param_group.get("nesterov"))
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check_group(group)
            if asked_for_nesterov:
                check_nesterov(group)
            if self._arena is not None:
                self._build()
        except SettingError:
            self.param_groups.pop()
            raise
        if group["decoupled_weight_decay"]:
            # Only here: a scheduler takes initial_lr for its base, and a user may still change lr before making one.
            group.setdefault("initial_lr", float(group["lr"]))

    def state_dict(self) -> dict:
        """As of `torch.optim.SGD`. Live momentum is spread out to the shapes of the parameters."""
        own, self.state = self.state, expanded_state(self.state, self._arena)
        try:
            return super().state_dict()
        finally:
            self.state = own

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over what `state_dict()` of this class or of `torch.optim.SGD` returned; masked momentum becomes 0."""
        loaded = saved_momentum(state_dict, self._all_parameters(), self._names())
        super().load_state_dict(state_dict)
        # Torch has rounded the buffers to the parameters' dtype, which is too coarse for momentum under bfloat16.
        self.state.update({p: {"momentum_buffer": b} for p, b in loaded.items() if p.dtype == torch.bfloat16})
        self._current_arena()
        self._adopt_state()
        self.refresh()

    def __copy__(self) -> "MaskedSGD":
        """Shares everything, as a copy of torch's optimizers does."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __getstate__(self) -> dict:
        kept = {
            "_mask": self._mask,
            "_live_momentum": self._live_momentum,
            "state": expanded_state(self.state, self._arena),
        }
        return {**super().__getstate__(), **kept}

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
        parameters, names = self._all_parameters(), self._names()
        check_mask(self._mask, self._by_name())
        kept = expanded_state(self.state, self._arena)
        check_momentum(kept, parameters, names)
        arena = self._arena = Arena(parameters, names, self._masks(), self._live_momentum)
        groups = [g for g, group in enumerate(self.param_groups) for _ in group["params"]]
        self._layout = Layout([p.numel() for p in parameters], arena.offsets, groups)
        self._group_of = groups
        self._hyperparameters = Hyperparameters(self.param_groups, arena.device)
        self.state.clear()
        self.state.update(kept)
        self._remember_state()
        self._last_written: tuple | None = None

    @torch.no_grad()
    def _adopt_state(self, gradients: list[Tensor | None] | None = None) -> None:
        """Takes over momentum found in `state`, and puts ours there for the gradients that will begin some."""
        arena = self._arena
        for i in self._waiting():
            p, found, ours = arena.parameters[i], momentum_of(self.state, arena.parameters[i]), arena.buffers[i]
            if found is not None:
                arena.write(i, found.detach())
                self._last_written = None  # what was copied in may be nonzero under the mask
            elif gradients is None or gradients[i] is None:
                continue
            arena.set_begun(i, found is not None)
            self.state[p]["momentum_buffer"] = ours
        self._remember_state()

    def _waiting(self) -> list[int]:
        """The parameters with momentum whose buffer in `state`, if any, is not ours."""
        arena, with_momentum = self._arena, list(map(has_momentum, self.param_groups))
        return [
            i
            for i, p in enumerate(arena.parameters)
            if with_momentum[self._group_of[i]] and momentum_of(self.state, p) is not arena.buffers[i]
        ]

    def _remember_state(self) -> None:
        self._seen, self._without = self._state_now(), self._waiting()

    def _state_now(self) -> tuple[list[int], list[bool]]:
        # In every step, so without hashing tensors.
        return [id(state.get("momentum_buffer")) for state in self.state.values()], list(
            map(has_momentum, self.param_groups)
        )

    def _written(self, addresses: np.ndarray) -> tuple:
        """Differs once torch has counted a write to a parameter, or one has got other memory."""
        parameters = self._arena.parameters
        return [p._version for p in parameters], addresses[: len(parameters)].tobytes()

    def _state_is_ours(self, gradients: list[Tensor | None]) -> bool:
        """Whether `state` is as we left it, and no gradient comes for a parameter that has no momentum yet."""
        return self._state_now() == self._seen and all(gradients[i] is None for i in self._without)

    def _from_scaler(self, name: str) -> Tensor | None:
        """What `torch.amp.GradScaler` sets for the time of a step. Without any gradient it is a plain number."""
        value = self.__dict__.get(name)
        if value is None:
            return None
        return torch.as_tensor(value, dtype=torch.float32).to(self._arena.device, non_blocking=True)

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
