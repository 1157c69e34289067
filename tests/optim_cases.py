"""A small network with masks and gradients for the tests of MaskedSGD."""

import torch
from torch import nn

from sparselt import MaskedSGD


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.Flatten(), nn.Linear(5 * 36, 4)
    )


def random_mask(model: nn.Module, density: float = 0.4, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(p.shape, generator=generator) < density for name, p in model.named_parameters() if p.dim() > 1
    }


def give_gradients(model: nn.Module, seed: int, missing: float = 0.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        gradient = torch.randn(p.shape, generator=generator)
        skipped = torch.rand((), generator=generator) < missing
        p.grad = None if skipped else torch.empty_like(p).copy_(gradient)


def assert_same_weights(model: nn.Module, other: nn.Module, rounding: float = 2e-6) -> None:
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(
            p, q, rtol=rounding, atol=rounding, msg=lambda text, name=name: f"{name}\n{text}", check_stride=False
        )


def assert_masked_is_zero(model: nn.Module, optimizer: MaskedSGD) -> None:
    for name, p in model.named_parameters():
        if name in optimizer.mask:
            gone = ~optimizer.mask[name]
            assert not p[gone].any(), name
            if "momentum_buffer" in optimizer.state[p]:
                assert not optimizer.state[p]["momentum_buffer"][gone].any(), name
