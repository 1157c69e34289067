"""magnitude_threshold's Triton kernels in Triton's interpreter, on CPU tensors, against sorting."""

import pytest
import torch
from far_memory import far_tensor

from sparselt.kernels.magnitude import gpu, reference

SHAPES = [(40, 30), (7,), (0,), (5000,), ()]


def layers(kind: str) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(s, generator=generator) for s in SHAPES]
    if kind == "ties":
        weights = [(3 * w).round() for w in weights]
    if kind == "special":
        choices = torch.tensor([float("nan"), -float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-42, 3.0])
        weights = [choices[torch.randint(0, 8, s, generator=generator)] for s in SHAPES]
    if kind == "bfloat16":
        weights = [w.bfloat16() for w in weights]
    masks = [torch.rand(s, generator=generator) < 0.6 if len(s) != 1 else None for s in SHAPES]
    masks[3] = torch.rand(SHAPES[3], generator=generator) < 0.4
    return weights, masks


@pytest.mark.parametrize("kind", ["normal", "ties", "special", "bfloat16"])
@pytest.mark.parametrize("layerwise", [False, True], ids=["global", "layerwise"])
def test_threshold_and_masks_match_sorting(kind, layerwise):
    weights, masks = layers(kind)
    numbers = [w.numel() if m is None else int(m.sum()) for w, m in zip(weights, masks, strict=True)]
    groups = [[i] for i in range(len(weights))] if layerwise else [list(range(len(weights)))]
    for share in (0.0, 0.3, 1.0):
        count = torch.tensor([int(share * sum(numbers[i] for i in group)) for group in groups])
        value, ties, live, not_finite = gpu.threshold(weights, masks, count, layerwise)
        kept = gpu.keep(weights, masks, value, ties, layerwise)
        strict = gpu.keep(weights, masks, value, None, layerwise)
        assert live.tolist() == numbers
        assert not_finite.tolist() == [
            int((~w.isfinite() if m is None else ~w.isfinite() & m).sum()) for w, m in zip(weights, masks, strict=True)
        ]
        for g, group in enumerate(groups):
            some, theirs = [weights[i] for i in group], [masks[i] for i in group]
            expected = torch.tensor(reference.threshold(some, theirs, int(count[g])))
            torch.testing.assert_close(value[g], expected, rtol=0, atol=0, equal_nan=True)
            answers = reference.keep(some, theirs, int(count[g]))
            assert all(torch.equal(kept[i], answer) for i, answer in zip(group, answers, strict=True))
            for i in group:
                answer = live_of(weights[i], masks[i])
                if count[g]:
                    answer &= reference.keys(weights[i]) > reference.keys(expected)
                assert torch.equal(strict[i], answer)


def live_of(weight: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return torch.ones_like(weight, dtype=torch.bool) if mask is None else mask.clone()


def test_more_than_the_live_weights_is_nan():
    weights = [torch.ones(3), torch.ones(5)]
    value, _, _, _ = gpu.threshold(weights, [None, None], torch.tensor([9]), False)
    assert value.isnan().all()
    value, _, _, _ = gpu.threshold(weights, [None, None], torch.tensor([4, 5]), True)
    assert value.isnan().tolist() == [True, False]


def test_weights_beyond_two_to_the_31_are_found(monkeypatch):
    weight, mask = far_tensor(), far_tensor(dtype=torch.bool)
    weight[-1000:], mask[-1000:] = (torch.arange(1000) % 100).bfloat16(), True

    def last_blocks(_device, sizes, block):
        last = (sizes[0] - 1) // block
        return torch.tensor([[0, last - 1], [0, last]], dtype=torch.int32)

    monkeypatch.setattr(gpu, "blocks_of", last_blocks)
    value, ties, live, _ = gpu.threshold([weight], [mask], torch.tensor([55]), False)
    assert (value.item(), ties.item(), live.item()) == (5.0, 5, 1000)
    kept, at = gpu.keep([weight], [mask], value, ties, False)[0], torch.arange(1000)
    assert torch.equal(kept[-1000:], (at % 100 > 5) | ((at % 100 == 5) & (at >= 500)))
