"""How flat a solution lies: the largest eigenvalues and the trace of the loss's Hessian (Paul et al. 2022, ICLR 2023).

The Hessian is that of the mean loss over all samples of some batches, in the live weights of a mask: pruned weights do
not move. Batch norm is in eval mode: its statistics are constants, as in every other measurement of a trained network
here. The matrix is never made. A Hessian-vector product differentiates the batches' gradients once more; the gradients
are computed again for each product, unless they fit the memory that `Hessian` may keep. A result depends on the
network, the batches and the seed, and in its last digits on the number of threads.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparselt.errors import SettingError, TrainingError
from sparselt.masks import Mask, as_mask

Loss = Callable[[Tensor, Tensor], Tensor]

_KEPT_BYTES = 1 << 30  # the most that kept gradients and their graphs may take


@dataclass(frozen=True)
class Eigenvalues:
    """The largest eigenvalues, descending, and how far each can be from the truth.

    residuals: ‖Hv − λv‖ of each with its unit vector v: the Hessian has an eigenvalue within this distance of λ.
    products: Hessian-vector products made.
    """

    values: tuple[float, ...]
    residuals: tuple[float, ...]
    products: int


@dataclass(frozen=True)
class Trace:
    """An unbiased estimate of the trace, its standard error over the samples, and the number of samples."""

    mean: float
    standard_error: float
    samples: int


def hessian_eigenvalues(
    model: nn.Module,
    batches: Iterable,
    mask: Mask,
    count: int = 10,
    *,
    prunable_only: bool = True,
    loss: Loss = F.cross_entropy,
    tolerance: float = 1e-4,
    max_products: int = 100,
    seed: int = 0,
    on_product: Callable[[int], None] = lambda done: None,
) -> Eigenvalues:
    """The `count` algebraically largest eigenvalues, by Lanczos' method with full reorthogonalization.

    Meant for the largest, clearly positive eigenvalues. If it stops early, it may find only one of several eigenvalues
    that are equal or closer together than the tolerance, and return the next distinct ones. With many weights and few
    samples most eigenvalues are near zero. Each of those returned is then still an eigenvalue within its residual, but
    larger ones may be missing. A smaller tolerance with more products finds more of them.

    Args:
        model: the trained network, masked; its mode and gradients are left as they were. Computed in its dtype.
        batches: (images, labels, …) each, of any sizes. They are read for each product, so an iterator is refused.
        mask: the live weights, which span the Hessian.
        count: how many; fewer are returned if there are fewer dimensions, or fewer products: each finds at most one.
        prunable_only: False adds all other parameters (biases, normalization) to the mask's live weights.
        loss: the mean loss over a batch of outputs and labels; must be twice differentiable.
        tolerance: stops when each residual is at most this share of the largest magnitude among all eigenvalues found.
        max_products: stops here in any case. Memory: this many vectors of the live weights.
        seed: of the start vector.
        on_product: called with the number of products made.

    Raises:
        SettingError: count or max_products below 1, a tolerance that is negative or not finite, no live weight, no
            batch with samples, or a parameter that takes no gradient.
        MaskError: a mask of another model.
        TrainingError: a product that is not finite.
    """
    with Hessian(model, batches, mask, prunable_only=prunable_only, loss=loss) as hessian:
        return hessian.eigenvalues(
            count, tolerance=tolerance, max_products=max_products, seed=seed, on_product=on_product
        )


def hessian_trace(
    model: nn.Module,
    batches: Iterable,
    mask: Mask,
    *,
    samples: int = 50,
    prunable_only: bool = True,
    loss: Loss = F.cross_entropy,
    seed: int = 0,
    on_product: Callable[[int], None] = lambda done: None,
) -> Trace:
    """The Hessian's trace by Hutchinson's estimator: the mean of vᵀHv over vectors v of random signs.

    Its variance is twice the sum of the squared off-diagonal entries. Arguments and errors as of
    `hessian_eigenvalues`; samples: products made, 2 or more.
    """
    with Hessian(model, batches, mask, prunable_only=prunable_only, loss=loss) as hessian:
        return hessian.trace(samples=samples, seed=seed, on_product=on_product)


class Hessian:
    """The Hessian of the live weights. `hessian @ vector` is its product with a vector.

    It works inside a `with` block. There the network is in eval mode, and its weights must not change. The
    gradients of all batches are computed once and kept, if they fit 1 GiB together with their graphs. A product then
    takes 2/3 (ResNet-8, images of 8 pixels) to 7/8 (ResNet-50, 64 pixels) of the time, on two EPYC cores.

    Arguments and errors as of `hessian_eigenvalues`.

    Attributes:
        size: the number of live weights, which is the length of a vector.
        device, dtype: of the vectors.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable,
        mask: Mask,
        *,
        prunable_only: bool = True,
        loss: Loss = F.cross_entropy,
    ):
        if isinstance(batches, Iterator):
            raise SettingError("the batches are an iterator, which ends; give batches that can be read again")
        parameters = dict(model.named_parameters())
        mask = as_mask(mask)
        mask.check_fits(parameters)
        names = list(mask) if prunable_only else list(parameters)
        self._parameters = [parameters[name] for name in names]
        for name, parameter in zip(names, self._parameters, strict=True):
            if not parameter.requires_grad:
                raise SettingError(f"parameter {name!r} takes no gradient, so has no Hessian; call requires_grad_()")
        self.device, self.dtype = self._parameters[0].device, self._parameters[0].dtype
        everything = [mask[n] if n in mask else torch.ones_like(parameters[n], dtype=torch.bool) for n in names]
        self._alive = torch.cat([layer.reshape(-1).to(self.device) for layer in everything]).nonzero().squeeze(1)
        self.size = len(self._alive)
        if not self.size:
            raise SettingError("the mask has no live weight, so the Hessian no dimension; choose another mask")
        self._sizes = [parameter.numel() for parameter in self._parameters]
        self._model, self._batches, self._loss = model, batches, loss
        self._modes: dict[nn.Module, bool] = {}

    def eigenvalues(
        self,
        count: int = 10,
        *,
        tolerance: float = 1e-4,
        max_products: int = 100,
        seed: int = 0,
        on_product: Callable[[int], None] = lambda done: None,
    ) -> Eigenvalues:
        """As `hessian_eigenvalues`."""
        if not (count >= 1 and max_products >= 1):
            raise SettingError(f"{count} eigenvalues of {max_products} products; expected at least 1 of each")
        if not 0 <= tolerance < math.inf:
            raise SettingError(
                f"the tolerance is {tolerance!r}; expected a share of the largest eigenvalue, such as 1e-4"
            )
        return _lanczos(self, count, tolerance, max_products, torch.Generator().manual_seed(seed), on_product)

    def trace(
        self, *, samples: int = 50, seed: int = 0, on_product: Callable[[int], None] = lambda done: None
    ) -> Trace:
        """As `hessian_trace`."""
        if not samples >= 2:
            raise SettingError(f"a trace of {samples} samples has no standard error; expected 2 or more")
        generator = torch.Generator().manual_seed(seed)
        found = []
        for done in range(1, samples + 1):
            signs = torch.randint(2, (self.size,), generator=generator) * 2 - 1
            vector = signs.to(self.device, self.dtype)
            found.append(float(vector.double() @ (self @ vector).double()))
            on_product(done)
        estimates = torch.tensor(found, dtype=torch.float64)
        return Trace(estimates.mean().item(), (estimates.std() / math.sqrt(samples)).item(), samples)

    def __enter__(self) -> "Hessian":
        self._modes = {module: module.training for module in self._model.modules()}
        self._kept: list[tuple[Sequence[Tensor], int]] = []  # gradients and number of samples, of all batches or none
        self._room = _KEPT_BYTES
        self._model.eval()
        return self

    def __exit__(self, *error) -> None:
        for module, training in self._modes.items():
            module.training = training
        self._modes, self._kept = {}, []

    def __matmul__(self, vector: Tensor) -> Tensor:
        if not self._modes:
            raise SettingError("this Hessian is not in use; multiply inside `with Hessian(…) as hessian:`")
        dense = vector.new_zeros(sum(self._sizes)).index_copy_(0, self._alive, vector)
        direction = [v.view(p.shape) for v, p in zip(dense.split(self._sizes), self._parameters, strict=True)]
        total = torch.zeros_like(vector, dtype=torch.float64)
        samples = 0
        for gradients, count, kept in self._gradients():
            product = torch.cat([piece.reshape(-1) for piece in self._along(gradients, direction, kept)])
            total.add_(product[self._alive], alpha=count)
            samples += count
        if not samples:
            raise SettingError("there is no batch to differentiate; give batches that can be read again")
        total /= samples
        if not math.isfinite(total.sum()):  # as every number is
            raise TrainingError("the Hessian at these weights is not finite; the training diverged")
        return total.to(self.dtype)

    def _gradients(self) -> Iterator[tuple[Sequence[Tensor], int, bool]]:
        """For each batch: the gradients of its mean loss, its number of samples, whether its gradients may be kept."""
        if self._kept:
            yield from ((gradients, count, True) for gradients, count in self._kept)
            return
        kept: list[tuple[Sequence[Tensor], int]] = []
        for images, labels, *_ in self._batches:
            if not len(labels):
                continue
            if not self._room:
                yield self._differentiated(images, labels), len(labels), False
                continue
            saved: dict[int, int] = {}  # the address of a storage: its bytes
            with torch.autograd.graph.saved_tensors_hooks(functools.partial(_note_storage, saved), lambda given: given):
                gradients = self._differentiated(images, labels)
            self._room = max(0, self._room - sum(saved.values()))
            kept.append((gradients, len(labels)))
            if not self._room:
                kept.clear()
            yield gradients, len(labels), bool(self._room)
        self._kept = kept

    def _differentiated(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        with torch.enable_grad():
            return _gradient(self._loss(self._model(images), labels), self._parameters, create_graph=True)

    def _along(self, gradients: Sequence[Tensor], direction: list[Tensor], kept: bool) -> Sequence[Tensor]:
        """The Hessian of one batch's mean loss times a direction, by parameter."""
        with torch.enable_grad():
            products = ((g * v).sum() for g, v in zip(gradients, direction, strict=True))
            slope: Tensor = sum(products)  # type: ignore[assignment]  # there is a parameter
            if not slope.requires_grad:  # the loss is linear
                return [torch.zeros_like(v) for v in direction]
            return _gradient(slope, self._parameters, retain_graph=kept)


_gradient = functools.partial(torch.autograd.grad, allow_unused=True, materialize_grads=True)


def _note_storage(saved: dict[int, int], tensor: Tensor) -> Tensor:
    if tensor.layout == torch.strided:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
    return tensor


def _lanczos(
    hessian: Hessian,
    count: int,
    tolerance: float,
    max_products: int,
    generator: torch.Generator,
    on_product: Callable[[int], None],
) -> Eigenvalues:
    steps = min(max_products, hessian.size)
    basis = torch.zeros(steps, hessian.size, device=hessian.device, dtype=hessian.dtype)
    diagonal: list[float] = []  # of the tridiagonal matrix that the Hessian is in this basis
    beside: list[float] = []
    vector = _random_direction(basis[:0], generator)
    for k in range(steps):
        basis[k] = vector
        product = hessian @ vector
        on_product(k + 1)
        diagonal.append(float(vector.double() @ product.double()))
        rest, length = _orthogonalized(product, basis[: k + 1])
        values, vectors = _tridiagonal(diagonal, beside)
        scale = float(values.abs().max())
        if length <= 10 * torch.finfo(hessian.dtype).eps * scale or scale == 0:
            # The basis spans an invariant subspace. Eigenvalues beyond it, copies of known ones too, need a new start.
            length = 0.0
        residuals = (length * vectors[-1]).abs()
        if k + 1 >= count and length > 0 and bool((residuals[-count:] <= tolerance * scale).all()):
            break
        if k + 1 < steps:
            vector = _random_direction(basis[: k + 1], generator) if length == 0 else rest / length
            beside.append(length)
    values, residuals = values[-count:].flip(0), residuals[-count:].flip(0)
    return Eigenvalues(tuple(values.tolist()), tuple(residuals.tolist()), len(diagonal))


def _random_direction(basis: Tensor, generator: torch.Generator) -> Tensor:
    """A random unit vector orthogonal to the rows of `basis`."""
    drawn = torch.randn(basis.shape[1], generator=generator, dtype=torch.float64).to(basis.device, basis.dtype)
    vector, length = _orthogonalized(drawn / drawn.double().norm().to(drawn.dtype), basis)
    return vector / length


def _orthogonalized(vector: Tensor, basis: Tensor) -> tuple[Tensor, float]:
    """The part of `vector` orthogonal to the rows of `basis`, and its length."""
    for _ in range(2):  # the second pass removes rounding errors of the first
        vector = vector - basis.T @ (basis @ vector)
    return vector, float(vector.double().norm())


def _tridiagonal(diagonal: list[float], beside: list[float]) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric tridiagonal matrix, in float64."""
    off = torch.tensor(beside, dtype=torch.float64)
    return torch.linalg.eigh(torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + off.diag(1) + off.diag(-1))
