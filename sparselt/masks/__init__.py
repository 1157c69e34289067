"""Which weights of a network are alive: `Mask`, a mapping from parameter names to bool tensors."""

import hashlib
import numbers
import os
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from sparselt.errors import MaskError, SettingError
from sparselt.masks._ranks import broadcast, check_equal
from sparselt.masks.file import read_mask_file, write_mask_file
from sparselt.weights import (
    check_network,
    check_weights,
    names_among,
    prunable_parameters,
    pruned_by_torch,
    split_over_ranks,
)


def random_generator(key: str) -> np.random.Generator:
    """Random numbers that depend on `key` alone: not on the device, the process or earlier draws."""
    words = np.frombuffer(hashlib.sha256(key.encode()).digest()[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=words))


class Mask(Mapping[str, Tensor]):
    """An immutable choice of weights: True where a weight is alive, False where it is pruned.

    Args:
        layers: a bool tensor of the parameter's shape, on any device, by parameter name as in
            `model.named_parameters()`. The tensors are copied, so changing them later does not change the mask.

    Raises:
        MaskError: a name that is no text, a layer that is not a whole bool tensor, or no layer at all.

    `mask[name]` returns the layer itself: do not write to it. `&` is the intersection and `|` the union of two masks
    over the same layers (Movva et al. 2021). `==` compares every layer, and masks can be dictionary keys.
    """

    def __init__(self, layers: Mapping[str, Tensor]):
        if not isinstance(layers, Mapping):
            raise MaskError(f"a mask is made of bool tensors by parameter name; got a {type(layers).__name__}")
        if not layers:
            raise MaskError("a mask needs at least one layer and got none; see sparselt.prunable_parameters(model)")
        for name, layer in layers.items():
            if not isinstance(name, str):
                raise MaskError(f"the name of a mask layer is {name!r}; expected a parameter's, such as '0.weight'")
            if not isinstance(layer, Tensor) or layer.dtype != torch.bool:
                found = str(layer.dtype) if isinstance(layer, Tensor) else type(layer).__name__
                raise MaskError(f"mask layer {name!r} is {found}; expected a torch.bool tensor (True: weight is alive)")
            if split := split_over_ranks(name, layers):
                raise MaskError(f"mask layer {split}")
        self._layers = {name: layer.detach().clone() for name, layer in layers.items()}

    @classmethod
    def ones_like(cls, model: nn.Module) -> "Mask":
        """The dense mask: True for every prunable weight of `model` (see `sparselt.prunable_parameters`).

        Raises:
            MaskError: no weight is prunable, or FSDP or tensor parallelism has split one.
            SettingError: `model` is no network, or a lazy layer of it has no weights yet.
        """
        weights = dict(prunable_parameters(model))
        for name in weights:
            if split := split_over_ranks(name, weights):
                raise MaskError(split)
        return cls({name: torch.ones_like(p, dtype=torch.bool) for name, p in weights.items()})

    @classmethod
    def random_like(cls, mask: "Mask", seed: int = 0) -> "Mask":
        """A random mask with exactly as many live weights in each layer as `mask`: the papers' random control.

        The draw of a layer depends on `seed`, a whole number, and the layer's name only.

        Raises:
            MaskError: `mask` is none.
            SettingError: `seed` is no whole number.
        """
        if not isinstance(seed, numbers.Integral):
            raise SettingError(f"seed is {seed!r}; expected a whole number")
        layers, mask = {}, as_mask(mask)
        for name, layer in mask.items():
            order = random_generator(f"{seed}/{name}").permutation(layer.numel())
            flat = torch.zeros(layer.numel(), dtype=torch.bool)
            flat[torch.from_numpy(order[: int(layer.sum())])] = True
            layers[name] = flat.view(layer.shape).to(layer.device)
        return cls(layers)

    @property
    def density(self) -> float:
        """Live weights over all weights of the masked layers, in [0, 1]: the papers' *weights remaining*.

        0.0 for layers without a weight.
        """
        return self.live / max(1, self.size)

    @property
    def live(self) -> int:
        """Number of live weights."""
        return sum(int(layer.sum()) for layer in self.values())

    @property
    def size(self) -> int:
        """Number of weights, alive or not, in the masked layers."""
        return sum(layer.numel() for layer in self.values())

    def layer_densities(self) -> dict[str, float]:
        """Density of each layer, in [0, 1]."""
        return {name: int(layer.sum()) / max(1, layer.numel()) for name, layer in self.items()}

    def jaccard(self, other: "Mask") -> float:
        """|a ∩ b| / |a ∪ b|, in [0, 1]; 1.0 for two empty masks."""
        other = as_mask(other)
        union = (self | other).live
        return (self & other).live / union if union else 1.0

    def apply_(self, model: nn.Module) -> None:
        """Sets every pruned weight of `model` to exactly 0.0, in place. Names are those of `named_as`.

        Raises:
            MaskError: a layer that `model` lacks or has in another shape. Nothing is written then.
            SettingError: `model` is no network.
        """
        check_network(model)
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, layer in self.named_as(parameters).items():
                parameters[name].masked_fill_(~layer.to(parameters[name].device), 0.0)

    @classmethod
    def from_pruned(cls, model: nn.Module) -> "Mask":
        """The mask of what `torch.nn.utils.prune` has pruned in `model`, by the names before it: 0.weight.

        Before a masked optimizer takes the model, `torch.nn.utils.prune.remove` makes its weights parameters again.

        Raises:
            MaskError: nothing of `model` is pruned so.
            SettingError: `model` is no network.
        """
        check_network(model)
        buffers = dict(model.named_buffers())
        parameters = dict(model.named_parameters())
        layers = {
            name.removesuffix("_mask"): layer.bool()
            for name, layer in buffers.items()
            if name.endswith("_mask") and f"{name.removesuffix('_mask')}_orig" in parameters
        }
        if not layers:
            raise MaskError("torch.nn.utils.prune has pruned nothing of this model; see Mask.ones_like")
        return cls(layers)

    def apply_as_prune(self, model: nn.Module) -> None:
        """Prunes `model` by `torch.nn.utils.prune.custom_from_mask`: its modules multiply by the mask in each forward.

        Names are those of `named_as`.

        Raises:
            MaskError: a layer that `model` lacks, also because it is pruned so already, or has in another shape.
            SettingError: `model` is no network.
        """
        check_network(model)
        from torch.nn.utils import prune

        for name, layer in self.named_as(dict(model.named_parameters())).items():
            owner, _, own = name.rpartition(".")
            prune.custom_from_mask(model.get_submodule(owner), own, layer)

    def check_fits(self, parameters: Mapping[str, Tensor]) -> None:
        """Checks that `parameters` has every layer of the mask in the same shape.

        Raises:
            MaskError: names the first layer that is missing, has another shape, or is split over ranks (FSDP).
            SettingError: `parameters` is not a mapping from names to tensors.
        """
        check_weights(parameters)
        for name, layer in self.items():
            if split := split_over_ranks(name, parameters):
                raise MaskError(split)
            if name not in parameters and f"{name}_orig" in parameters:
                raise MaskError(pruned_by_torch(name))
            if name not in parameters:
                raise MaskError(
                    f"mask layer {name!r} is not a parameter of this model; was the mask made for another one?"
                )
            if parameters[name].shape != layer.shape:
                raise MaskError(
                    f"mask layer {name!r} has shape {tuple(layer.shape)}, its weight {tuple(parameters[name].shape)}; "
                    "was the mask made for another model?"
                )

    def named_as(self, parameters: Mapping[str, Tensor]) -> "Mask":
        """This mask under the names that its layers have in `parameters`, in its own order.

        It sees through `torch.compile`, DistributedDataParallel and AveragedModel: where a name is missing, the parts
        `_orig_mod.`, `module.` and `_fsdp_wrapped_module.` of both names do not count.

        Raises: see `check_fits`.
        """
        check_weights(parameters)
        names = names_among(parameters, self)
        named = (
            self
            if all(name == found for name, found in names.items())
            else Mask({names.get(name, name): layer for name, layer in self.items()})
        )
        named.check_fits(parameters)
        return named

    def broadcast(self, source: int = 0) -> "Mask":
        """The mask of rank `source` of `torch.distributed`, on every rank; without a process group, this mask.

        Every rank calls it, with layers of the same names and shapes, in any order; it gets the source's order. Masks
        of weights that differ from rank to rank, as before DistributedDataParallel makes them equal, differ too, and so
        would the trainings.

        Raises:
            MaskError: on every rank, if a rank has other layers than the source; it names the rank and the layer.
            SettingError: `source` is no rank.
        """
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return self
        return Mask(broadcast(self, source))

    def check_equal_across_ranks(self, group: "torch.distributed.ProcessGroup | None" = None) -> None:
        """Compares the masks of the ranks of `torch.distributed` by checksums; without a process group, does nothing.

        Every rank of `group` (by default all ranks) calls it, once a mask is made: one that does not keeps the others
        waiting. No optimizer calls it by itself, because ranks of a pipeline have masks of different layers.

        Raises:
            MaskError: on every rank of the group; it names the rank in the group and the first layer that differs.
        """
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return
        check_equal(self, group)

    def live_values(self, tensors: Mapping[str, Tensor], names: Iterable[str] | None = None) -> Tensor:
        """The values of `tensors` at the live weights, in layer and row-major order, as one vector.

        Args:
            tensors: a tensor of each layer's shape, by name. All on one device.
            names: the layers to read; all of them unless given.

        Raises: see `check_fits`, of the layers to read.
        """
        layers = self if names is None else Mask({name: self[name] for name in names})
        layers.check_fits(tensors)
        return torch.cat([tensors[name][layer.to(tensors[name].device)] for name, layer in layers.items()])

    def keep(self, chosen: Tensor) -> "Mask":
        """The mask of the live weights for which `chosen` is True.

        Args:
            chosen: bool [live], in the order of `live_values`, on any device.

        Raises:
            MaskError: `chosen` is something else.
        """
        counts, layers = [int(layer.sum()) for layer in self.values()], {}
        if not isinstance(chosen, Tensor) or chosen.dtype != torch.bool or chosen.shape != (sum(counts),):
            found = f"{chosen.dtype} {tuple(chosen.shape)}" if isinstance(chosen, Tensor) else type(chosen).__name__
            raise MaskError(f"chosen is {found}; expected torch.bool ({sum(counts)},), one for each live weight")
        for name, part in zip(self, chosen.split(counts), strict=True):
            layers[name] = torch.zeros_like(self[name]).masked_scatter_(self[name], part.to(self[name].device))
        return Mask(layers)

    def save(self, path: str | os.PathLike) -> None:
        """Writes one bit a weight to a safetensors file, whole or not at all.

        Raises:
            MaskError: `path` is a folder or cannot be written.
        """
        write_mask_file(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Mask":
        """Reads a file that `save` wrote. The layers keep their order and are on the CPU.

        `sparselt.masks.checkpoints` reads masks and weights of other tools, and of `Ticket.export`.

        Raises:
            MaskError: the file is missing, damaged (a checksum in it tells), or not a mask.
        """
        return cls(read_mask_file(path))

    def __getitem__(self, name: str) -> Tensor:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __and__(self, other: "Mask") -> "Mask":
        return self._combine(other, torch.logical_and)

    def __or__(self, other: "Mask") -> "Mask":
        return self._combine(other, torch.logical_or)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return self.keys() == other.keys() and all(torch.equal(self[n].cpu(), other[n].cpu()) for n in self)

    def __hash__(self) -> int:
        return hash(tuple(sorted((name, int(layer.sum())) for name, layer in self.items())))

    def __repr__(self) -> str:
        return f"Mask({len(self)} layers, {self.live} of {self.size} weights alive, density {self.density:.4f})"

    def _combine(self, other: "Mask", operation: Callable[[Tensor, Tensor], Tensor]) -> "Mask":
        if not isinstance(other, Mask):
            return NotImplemented
        if self.keys() != other.keys():
            odd = sorted(self.keys() ^ other.keys())[0]
            raise MaskError(f"two masks over different layers cannot be combined: {odd!r} stands in only one of them")
        other.check_fits(self)
        return Mask({name: operation(self[name], other[name].to(self[name].device)) for name in self})


def as_mask(mask: Mapping[str, Tensor]) -> Mask:
    """Returns a `Mask` unchanged, and makes one of a mapping from parameter names to bool tensors.

    Raises:
        MaskError: `mask` is neither.
    """
    if isinstance(mask, Mask):
        return mask
    if not isinstance(mask, Mapping):
        raise MaskError(f"mask is a {type(mask).__name__}; expected a sparselt.Mask, or bool tensors by parameter name")
    return Mask(mask)
