import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparselt import Mask, magnitude_prune
from sparselt.analysis.flatness import Hessian, hessian_eigenvalues, hessian_trace
from sparselt.errors import MaskError, SettingError, TrainingError
from sparselt.models import build_model

EXACT = {"tolerance": 1e-13, "max_products": 1000}


def tiny_network() -> nn.Module:
    """162 parameters with a convolution, batch norm whose statistics are not those of a fresh layer, and a head."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 3, 2), nn.Flatten(), nn.Linear(12, 6)
    ).double()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator).abs() + 0.1)
    model[5].weight.data.normal_(generator=generator)
    return model


def batches(sizes=(7, 3), classes=6, side=5):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 1, side, side, generator=generator).double(), torch.randint(classes, (n,), generator=generator))
        for n in sizes
    ]


def dense_hessian(model: nn.Module, names: list[str], alive, loss=F.cross_entropy) -> torch.Tensor:
    """Of the mean loss over all samples at once, in the coordinates that `alive` chooses, column by column."""
    model.eval()
    fixed = {name: p.detach() for name, p in model.state_dict().items()}
    flat = torch.cat([fixed[name].reshape(-1) for name in names])
    images, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))

    def mean_loss(vector):
        pieces = vector.split([fixed[name].numel() for name in names])
        own = {name: piece.view(fixed[name].shape) for name, piece in zip(names, pieces, strict=True)}
        return loss(torch.func.functional_call(model, {**fixed, **own}, images), labels)

    return torch.autograd.functional.hessian(mean_loss, flat)[alive][:, alive]


@pytest.mark.parametrize("prunable_only", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
def test_eigenvalues_are_those_of_the_dense_hessian(prunable_only, sparse):
    model = tiny_network()
    mask = Mask.ones_like(model)
    if sparse:
        mask = magnitude_prune(model, mask, 0.4)
        mask.apply_(model)
    names = list(mask) if prunable_only else [name for name, _ in model.named_parameters()]
    parameters = dict(model.named_parameters())
    alive = torch.cat([mask.get(n, torch.ones_like(parameters[n]) > 0).reshape(-1) for n in names])
    expected, vectors = torch.linalg.eigh(dense_hessian(model, names, alive))
    found = hessian_eigenvalues(model, batches(), mask, 8, prunable_only=prunable_only, **EXACT)
    assert found.values == pytest.approx(expected.flip(0)[:8].tolist(), abs=1e-8 * float(expected.abs().max()))
    assert max(found.residuals) < 1e-8
    trace = hessian_trace(model, batches(), mask, samples=40, prunable_only=prunable_only)
    assert abs(trace.mean - float(expected.sum())) < 3 * trace.standard_error
    hessian = vectors @ expected.diag() @ vectors.T
    spread = math.sqrt(2 * float(hessian.square().sum() - hessian.diagonal().square().sum()) / 40)
    assert spread / 1.6 < trace.standard_error < spread * 1.6


@pytest.mark.parametrize(("room", "passes"), [(0, 6 * 2), (1 << 30, 2), (15_000, 6 * 2)])
def test_gradients_that_are_kept_give_the_same_bits_in_fewer_forward_passes(monkeypatch, room, passes):
    model = tiny_network()
    mask = Mask.ones_like(model)
    apart = (
        hessian_eigenvalues(model, batches(), mask, 2, max_products=3),
        hessian_trace(model, batches(), mask, samples=3),
    )
    monkeypatch.setattr("sparselt.analysis.flatness._KEPT_BYTES", room)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    with Hessian(model, batches(), mask) as hessian:
        together = hessian.eigenvalues(2, max_products=3), hessian.trace(samples=3)
    assert together == apart
    assert len(calls) == passes
    with pytest.raises(SettingError, match="not in use"):
        hessian.trace(samples=2)


def test_a_loader_that_shuffles_is_not_mixed_with_what_was_kept(monkeypatch):
    """Room for the gradients of some batches only: then the others could bring samples of these again."""
    model, calls = tiny_network(), []

    class Shuffled:
        def __iter__(self):
            calls.append(1)
            return iter(batches((5, 5))[:: 1 if len(calls) % 2 else -1])

    mask = Mask.ones_like(model)
    expected = hessian_trace(model, batches((5, 5)), mask, samples=4).mean
    monkeypatch.setattr("sparselt.analysis.flatness._KEPT_BYTES", 15_000)
    assert hessian_trace(model, Shuffled(), mask, samples=4).mean == pytest.approx(expected, rel=1e-9)
    assert len(calls) == 4


def test_residuals_bound_the_error_where_lanczos_stops_early():
    model = tiny_network()
    mask = Mask.ones_like(model)
    names = list(mask)
    expected = torch.linalg.eigvalsh(dense_hessian(model, names, torch.ones(mask.size) > 0))
    for products in (4, 8, 16):
        found = hessian_eigenvalues(model, batches(), mask, 3, tolerance=0, max_products=products)
        assert found.products == products
        for value, residual in zip(found.values, found.residuals, strict=True):
            assert float((expected - value).abs().min()) <= residual + 1e-12
    loose = hessian_eigenvalues(model, batches(), mask, 3, tolerance=1e-3)
    assert loose.products < 40 and max(loose.residuals) <= 1e-3 * float(expected.abs().max())
    assert loose.values == pytest.approx(expected.flip(0)[:3].tolist(), abs=2e-3 * float(expected.abs().max()))


class Quadratic(nn.Module):
    """½ Σ curvature · w², whose Hessian is the diagonal of curvatures."""

    def __init__(self, curvatures):
        super().__init__()
        self.register_buffer("curvatures", torch.tensor(curvatures, dtype=torch.float64))
        self.weight = nn.Parameter(torch.ones(len(curvatures), dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, images):
        return 0.5 * (self.curvatures * self.weight**2).sum() + 0 * images.sum()


def first(outputs, labels):
    return outputs


def test_a_diagonal_hessian_with_repeated_and_negative_eigenvalues_is_found_whole():
    model = Quadratic([5.0, 5.0, 5.0, -9.0, 0.0, 0.0, 2.0, 1.0])
    mask = Mask({"weight": torch.tensor([True] * 7 + [False])})
    found = hessian_eigenvalues(model, batches(), mask, 10, loss=first, **EXACT)
    assert found.values == pytest.approx([5, 5, 5, 2, 0, 0, -9], abs=1e-12)
    assert found.products == 7
    trace = hessian_trace(model, batches(), mask, samples=3, loss=first)
    assert (trace.mean, trace.samples) == (pytest.approx(8.0), 3) and trace.standard_error < 1e-14


def test_empty_batches_add_nothing_to_a_hessian():
    model, mask = tiny_network(), Mask.ones_like(tiny_network())
    data = [*batches(), *batches((0,))]
    assert hessian_eigenvalues(model, data, mask, 2) == hessian_eigenvalues(model, batches(), mask, 2)
    assert hessian_trace(model, data, mask, samples=2) == hessian_trace(model, batches(), mask, samples=2)


def test_directions_without_influence_have_eigenvalue_zero():
    model, mask = Quadratic([3.0, 1.0]), Mask({"weight": torch.ones(2) > 0})
    found = hessian_eigenvalues(model, batches(), mask, 4, loss=first, prunable_only=False, **EXACT)
    assert found.values == pytest.approx([3, 1, 0, 0], abs=1e-12)
    linear = hessian_eigenvalues(model, batches(), mask, 2, loss=lambda outputs, labels: model.weight.sum(), **EXACT)
    assert linear.values == (0.0, 0.0)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_network_as_it_was():
    model = build_model("resnet8", classes=10, channels=1, seed=0).train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = [(images.float(), labels) for images, labels in batches((16,), classes=10, side=8)]
    mask = magnitude_prune(model, Mask.ones_like(model), 0.8)
    options = {"count": 2, "max_products": 6}
    found = [hessian_eigenvalues(model, data, mask, **options, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    traces = [hessian_trace(model, data, mask, samples=3, seed=seed) for seed in (0, 0, 1)]
    assert traces[0] == traces[1] != traces[2]
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_memory_order_does_not_matter():
    model, mask = tiny_network(), Mask.ones_like(tiny_network())
    pruned = magnitude_prune(model, mask, 0.3)
    found = hessian_eigenvalues(model, batches(), pruned, 3, **EXACT)
    last = hessian_eigenvalues(model.to(memory_format=torch.channels_last), batches(), pruned, 3, **EXACT)
    assert last.values == pytest.approx(found.values, rel=1e-9)


def test_progress_is_reported_after_each_product():
    model, mask = Quadratic([3.0, 1.0]), Mask({"weight": torch.ones(2) > 0})
    seen = []
    hessian_eigenvalues(model, batches(), mask, 2, loss=first, on_product=seen.append)
    hessian_trace(model, batches(), mask, samples=3, loss=first, on_product=seen.append)
    assert seen == [1, 2, 1, 2, 3]


def test_what_has_no_hessian_is_refused():
    model, mask = tiny_network(), Mask.ones_like(tiny_network())
    eigenvalues = partial(hessian_eigenvalues, model)
    with pytest.raises(SettingError, match="0 eigenvalues"):
        eigenvalues(batches(), mask, 0)
    for tolerance in (-1e-4, math.nan, math.inf):
        with pytest.raises(SettingError, match=f"tolerance is {tolerance}"):
            eigenvalues(batches(), mask, 1, tolerance=tolerance)
    with pytest.raises(SettingError, match="read again"):
        eigenvalues(iter(batches()), mask, 3)
    with pytest.raises(SettingError, match="no live weight"):
        eigenvalues(batches(), Mask({"5.weight": torch.zeros(6, 12) > 0}), 3)
    with pytest.raises(MaskError, match="'w'"):
        eigenvalues(batches(), Mask({"w": torch.ones(2) > 0}), 3)
    with pytest.raises(SettingError, match="1 samples has no standard error"):
        hessian_trace(model, batches(), mask, samples=1)
    model[5].weight.requires_grad_(False)
    with pytest.raises(SettingError, match=r"'5.weight' takes no gradient"):
        eigenvalues(batches(), mask, 3)
    model[5].weight.requires_grad_().data.fill_(math.inf)
    with pytest.raises(TrainingError, match="not finite"):
        eigenvalues(batches(), mask, 3)
