"""MaskedOptimizer: what every masked optimizer shares; a subclass adds its options and names the kernel of its rule."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from sparselt.errors import SettingError
from sparselt.kernels._optimizer import Launch
from sparselt.kernels._optimizer.arguments import check_gradient
from sparselt.kernels._order import same_order
from sparselt.optim._arena import fitted_mask
from sparselt.optim._copies import CopyingOptimizer
from sparselt.optim._hyperparameters import check_flags, check_numbers
from sparselt.optim._networks import groups_of_networks, mask_of_networks
from sparselt.optim._uncompiled import uncompiled


# A step reads addresses, so it cannot be traced. Torch's own decorator imports the compiler, which takes a second, only
# in a compiled function.
@torch._disable_dynamo
def _untraced_step(optimizer: "MaskedOptimizer", closure: Callable[[], Tensor] | None) -> Tensor | None:
    return optimizer.step(closure)


class MaskedOptimizer(CopyingOptimizer):
    """A torch optimizer that keeps masked weights and their state at exactly 0.0 after every step.

    params: `model.named_parameters()`, or groups of such; plain parameters without a mask. All of one device and one
        dtype (float32, bfloat16 with float32 state; float64 on a CPU). For several networks see `of_networks`.
    mask: bool tensors by parameter name (a `sparselt.Mask`), True where a weight lives; parameters without one are
        dense. Names see through wrappers, as in `Mask.named_as`. Weights masked at construction are set to 0. None:
        every weight lives.
    live_state: store state for live weights only: for each buffer 4 bytes a live weight and at most 28 more a block of
        1,024 weights, instead of 4 bytes a weight. Results are the same to the bit. `state` then holds flat tensors;
        `state_dict()` still gives state in the shape of its parameter.

    `state_dict()` goes to and from torch's optimizer of the same rule, and takes the mask along. Parameters may be
    moved, reloaded or brought to another memory format at any time. On a GPU masked memory is not written again in
    every step: call `refresh()` after writing through `p.data`, which torch does not count as a write, and before the
    replay of a CUDA graph once a hyperparameter or a weight was changed from outside.

    With `torch.amp.GradScaler` the kernel divides by the scale, and a step that finds an infinity changes nothing at
    all: a parameter's first step is its first that is not skipped. Nothing waits for the GPU to know. `p.grad` stays
    scaled (torch's fused optimizers divide it in place). The scaler looks for infinities in all gradients, also of
    masked weights.

    Raises SettingError and MaskError (both ValueError), naming the parameter, before anything is written.

    A subclass sets these attributes:
    operation: the kernel, with its rule.
    state_keys: what torch calls the buffers of the state, in the order of the rule.
    counts_steps: whether `state_dict()` has "step" as well, the number of steps that a parameter has made.
    numbers: the options that are floats or tensors of one element. One on the GPU is read there, also in the replays
        of a CUDA graph.
    flags: the options that are True or False.

    A subclass defines these methods; only `columns` is required:
    columns: a group's row of hyperparameters, as the kernel reads it.
    check_group: raises for options of a group that make no sense.
    complete_group: adds options that a group lacks, such as one that an earlier version saved.
    keeps_state: whether weights of a group have state; by default if there are `state_keys`.
    kernel: operation and `state_keys` that the present groups need, if these depend on the options of groups.
    """

    _step_supports_amp_scaling = True

    def __init__(
        self, params: Iterable, defaults: dict, mask: Mapping[str, Tensor] | None = None, live_state: bool = False
    ):
        if isinstance(params, nn.Module):
            raise SettingError(
                f"params is a {type(params).__name__}; expected its parameters: model.named_parameters()"
            )
        if isinstance(params, Mapping):
            raise SettingError(
                f"params is a {type(params).__name__}; expected pairs of name and parameter: model.named_parameters()"
            )
        check_flags({"live_state": live_state}, ("live_state",))
        check_numbers(defaults, self.numbers)
        check_flags(defaults, self.flags)
        self.check_group(defaults, defaults)
        self._live_state = live_state
        super().__init__(params, defaults)
        fitted_mask(mask, self._by_name())  # raises MaskError if it does not fit, before anything is written
        self._mask = mask
        self._build()
        self.refresh()

    def check_group(self, group: dict, given_keys: Collection[str]) -> None:
        """Raises a SettingError for options that make no sense.

        group: all options, defaults included. given_keys: those that the group itself names; at construction all.
        """

    @classmethod
    def of_networks(
        cls, networks: Sequence[nn.Module], masks: Sequence[Mapping[str, Tensor] | None] | None = None, **options
    ) -> Self:
        """One optimizer, with one launch a step, for K networks. Each gets the same bits as alone.

        masks: K masks by the networks' own parameter names; None, for one or all of them: every weight lives.
        options: those of the class, each one value for all networks or a sequence of K. live_state is one value for
        all. Network k is parameter group k, with the entry "network": k. Its parameters are called "k.name", also in
        `mask`. Raises SettingError and MaskError, naming the network.
        """
        if isinstance(networks, nn.Module) and not isinstance(networks, nn.ModuleList):
            raise SettingError(
                f"networks is one network, a {type(networks).__name__}; expected several: give [model], and [mask]"
            )
        networks = list(networks)
        defaults = {name: option.default for name, option in inspect.signature(cls).parameters.items()}
        names = [name for name in defaults if name not in ("params", "mask")]
        pairs = [name for name in names if isinstance(defaults[name], tuple)]
        groups, shared = groups_of_networks(networks, options, names, pairs)
        return cls(groups, mask=mask_of_networks(networks, masks), **shared)

    @property
    def mask(self) -> Mapping[str, Tensor] | None:
        """The mask as it was given; None: every weight lives. Assigning another one calls `set_mask`."""
        return self._mask

    @mask.setter
    def mask(self, mask: Mapping[str, Tensor] | None) -> None:
        self.set_mask(mask)

    def set_mask(self, mask: Mapping[str, Tensor] | None) -> None:
        """Changes the mask. Newly masked weights and their state are set to 0; other state stays.

        A CUDA graph captured before keeps the old mask: capture it again.
        """
        fitted_mask(mask, self._by_name())  # raises MaskError if it does not fit, before anything is written
        arena = self._current_arena()
        self._copy_state_into_arena()
        with_state = [i for i in range(len(arena.parameters)) if self._state_is_in_arena(i)]
        self._mask = mask
        arena.set_masks(self._masks())
        for i in with_state:
            self._point_state_at_arena(i)  # with live state, `set_masks` gives new buffers
        self._note_state_identity()
        self.refresh()

    @torch.no_grad()
    def restart(self, mask: Mapping[str, Tensor] | None, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Starts another training in the same memory, which a captured CUDA graph reads and writes.

        state: as `named_state` returns it; the state of parameters not named is zero. Not for live state.
        """
        arena = self._current_arena()
        arena.state.zero_()
        arena.steps.zero_()
        keeps = list(map(self.keeps_state, self.param_groups))
        for i, name in enumerate(self._names()):
            if keeps[self._group_of[i]]:
                self._point_state_at_arena(i)
            if name in state:
                arena.write(i, [state[name][key] for key in self.state_keys])
                arena.set_steps(i, int(state[name].get("step", 1)))
        captured_mask = arena.mask  # a captured CUDA graph reads this memory
        self.set_mask(mask)  # puts the mask into new memory
        arena.mask = captured_mask.copy_(arena.mask)

    @torch.no_grad()
    def refresh(self) -> None:
        """Zeroes masked weights and their state, writes the copies of `copy_to_bfloat16`, and sends changed
        hyperparameters to the device.

        `step` does this itself; a replayed CUDA graph cannot. Call this before a replay if either was changed.
        """
        arena = self._current_arena()
        for i, mask in enumerate(self._masks()):
            if mask is not None:
                gone = ~mask.to(arena.device)
                arena.parameters[i].masked_fill_(gone, 0)
                arena.zero_masked(i, gone)
        arena.write_copies()
        self._hyperparameters.send(self.param_groups)
        self._zeroed = [p._version for p in arena.parameters]
        self._last_versions_and_addresses = self._versions_and_addresses(
            arena.addresses([None] * len(arena.parameters))
        )

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]  # of torch's overloads
        """One step for every parameter that has a gradient. closure: evaluates the model again and returns the loss."""
        if torch.compiler.is_compiling():
            return _untraced_step(self, closure)
        # Torch wraps every `step` for its profiler and for hooks, which takes a quarter of a small network's step.
        if torch.autograd._profiler_enabled() or self._has_hooks():
            return self._observed_step(closure)
        return self._step(closure)

    step.hooked = True  # type: ignore[attr-defined]  # torch's own mark of a wrapped function

    def _has_hooks(self) -> bool:
        own = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        return bool(own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)

    def _step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        arena = self._arena if self.kernel() == (self.operation, self.state_keys) else self._build()
        gradients = [source.grad for source in arena.sources]
        if self._copies:
            self._check_copied()
        addresses = arena.addresses(gradients)
        if addresses is None:
            arena = self._current_arena()
            gradients = [self._in_parameter_order(gradient, i) for i, gradient in enumerate(gradients)]
            addresses = arena.addresses(gradients)
            assert addresses is not None, "every gradient has been laid out like its parameter"
        parameters = written = arena.parameters
        if arena.some_missing:
            written = [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
        grad_scale, found_inf = self._from_scaler("grad_scale"), self._from_scaler("found_inf")
        if self._copies and (grad_scale is not None or found_inf is not None):
            raise SettingError(
                "a GradScaler neither scales nor checks the gradients of bfloat16 copies of weights; train in bfloat16 "
                "without a scaler, or call copy_to_bfloat16([]) first"
            )
        if found_inf is not None and not found_inf.is_cuda and found_inf.item() != 0:
            return loss  # on a GPU the kernel checks it
        if arena.some_missing:
            self._zero_without_gradient(gradients)
        # A parameter's state must be in `state` before its first gradient arrives.
        has_first_gradient = any(gradients[i] is not None for i in self._noted_not_in_arena)
        if has_first_gradient or self._state_identity() != self._noted_identity:
            self._copy_state_into_arena(gradients)
        self._hyperparameters.send(self.param_groups)
        # On a GPU masked memory is not rewritten, unless somebody else wrote to the parameters since the last step.
        on_gpu = arena.device.type == "cuda"
        tracks_writes = on_gpu or bool(self._copies)
        changed = tracks_writes and self._changed(addresses)
        self.operation.launch(
            Launch(
                layout=self._layout,
                dtype=arena.dtype,
                addresses=addresses,
                state=arena.state,
                mask=arena.mask,
                hyperparameters=self._hyperparameters.rows,
                rewrite=not on_gpu or changed,
                blocks=arena.blocks,
                live_state=self._live_state,
                steps=arena.steps,
                grad_scale=grad_scale,
                found_inf=found_inf,
                shadow=arena.shadow,  # the copies of `copy_to_bfloat16`
            )
        )
        torch.autograd.graph.increment_version(written)
        if self._copies and arena.some_missing and changed:
            arena.write_copies()  # the kernel has not visited all of them
        if tracks_writes:
            self._last_versions_and_addresses = self._versions_and_addresses(addresses)
        return loss

    _observed_step = torch.optim.Optimizer.profile_hook_step(_step)

    def add_param_group(self, param_group: dict) -> None:
        for key in ("mask", "live_state", "live_momentum"):
            if key in param_group:
                raise SettingError(
                    f"a parameter group has {key!r}: give it to {type(self).__name__}, for all groups. "
                    "ZeroRedundancyOptimizer passes it in the group; wrap torch's optimizer and call "
                    "sparselt.optim.keep_masked"
                )
        given_keys = set(param_group)
        uncompiled(super().add_param_group)(param_group)
        group = self.param_groups[-1]
        try:
            check_numbers(group, self.numbers)
            check_flags(group, self.flags)
            self.check_group(group, given_keys)
            if self._built is not None:
                self._build()
        except SettingError:
            self.param_groups.pop()
            raise
        self.complete_group(group)

    def __copy__(self) -> Self:
        """A shallow copy that shares all state, as for torch's optimizers."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def _from_scaler(self, name: str) -> Tensor | None:
        """An attribute that `torch.amp.GradScaler` sets during a step. Without any gradient it is a plain number."""
        value = self.__dict__.get(name)
        if value is None:
            return None
        return torch.as_tensor(value, dtype=torch.float32).to(self._arena.device, non_blocking=True)

    def _in_parameter_order(self, gradient: Tensor | None, i: int) -> Tensor | None:
        """The gradient in its parameter's memory order; SettingError if it cannot be the parameter's gradient."""
        if gradient is None:
            return None
        parameter = self._arena.sources[i]
        try:
            check_gradient(self._names()[i], parameter, gradient)
        except ValueError as error:
            raise SettingError(str(error)) from error
        return gradient if same_order(gradient, parameter) else torch.empty_like(parameter).copy_(gradient.detach())
