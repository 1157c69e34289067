"""How flat a solution lies: the largest eigenvalues and the trace of the loss's Hessian (Paul et al. 2022, ICLR 2023).

The Hessian is that of the mean loss over all samples of some batches, in the live weights of a mask: pruned weights do
not move. Batch norm is in eval mode: its statistics are constants, as in every other measurement of a trained network
here. The matrix is never made; a Hessian-vector product costs a forward and two backward passes over the batches. A
result depends on the network, the batches and the seed, and in its last digits on the number of threads.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparselt.errors import SettingError, TrainingError
from sparselt.masks import Mask, as_mask

Loss = Callable[[Tensor, Tensor], Tensor]


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
        batches: (images, labels, …) each, of any sizes; gone through once for each product.
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
    if not (count >= 1 and max_products >= 1):
        raise SettingError(f"{count} eigenvalues of {max_products} products; expected at least 1 of each")
    if not 0 <= tolerance < math.inf:
        raise SettingError(f"the tolerance is {tolerance!r}; expected a share of the largest eigenvalue, such as 1e-4")
    with _Hessian(model, batches, mask, prunable_only, loss) as hessian:
        return _lanczos(hessian, count, tolerance, max_products, torch.Generator().manual_seed(seed), on_product)


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
    if not samples >= 2:
        raise SettingError(f"a trace of {samples} samples has no standard error; expected 2 or more")
    generator = torch.Generator().manual_seed(seed)
    found = []
    with _Hessian(model, batches, mask, prunable_only, loss) as hessian:
        for done in range(1, samples + 1):
            signs = torch.randint(2, (hessian.size,), generator=generator) * 2 - 1
            vector = signs.to(hessian.device, hessian.dtype)
            found.append(float(vector.double() @ (hessian @ vector).double()))
            on_product(done)
    estimates = torch.tensor(found, dtype=torch.float64)
    return Trace(estimates.mean().item(), (estimates.std() / math.sqrt(samples)).item(), samples)


class _Hessian:
    """The Hessian in the chosen coordinates as an operator: `hessian @ vector`. Use it inside `with`."""

    def __init__(self, model: nn.Module, batches: Iterable, mask: Mask, prunable_only: bool, loss: Loss):
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

    def __enter__(self) -> "_Hessian":
        self._modes = {module: module.training for module in self._model.modules()}
        self._model.eval()
        return self

    def __exit__(self, *error) -> None:
        for module, training in self._modes.items():
            module.training = training

    def __matmul__(self, vector: Tensor) -> Tensor:
        dense = vector.new_zeros(sum(self._sizes)).index_copy_(0, self._alive, vector)
        direction = [v.view(p.shape) for v, p in zip(dense.split(self._sizes), self._parameters, strict=True)]
        total = torch.zeros_like(vector, dtype=torch.float64)
        samples = 0
        for images, labels, *_ in self._batches:
            if not len(labels):
                continue
            product = torch.cat([piece.reshape(-1) for piece in self._along(images, labels, direction)])
            total.add_(product[self._alive], alpha=len(labels))
            samples += len(labels)
        if not samples:
            raise SettingError("there is no batch to differentiate; give batches that can be read again")
        total /= samples
        if not math.isfinite(total.sum()):  # as every number is
            raise TrainingError("the Hessian at these weights is not finite; the training diverged")
        return total.to(self.dtype)

    def _along(self, images: Tensor, labels: Tensor, direction: list[Tensor]) -> Sequence[Tensor]:
        """The Hessian of one batch's mean loss times a direction, by parameter."""
        gradient = functools.partial(torch.autograd.grad, allow_unused=True, materialize_grads=True)
        with torch.enable_grad():
            loss = self._loss(self._model(images), labels)
            gradients = gradient(loss, self._parameters, create_graph=True)
            products = ((g * v).sum() for g, v in zip(gradients, direction, strict=True))
            slope: Tensor = sum(products)  # type: ignore[assignment]  # there is a parameter
            if not slope.requires_grad:  # the loss is linear
                return [torch.zeros_like(v) for v in direction]
            return gradient(slope, self._parameters)


def _lanczos(
    hessian: _Hessian,
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
