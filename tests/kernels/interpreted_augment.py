"""augment's Triton kernel in Triton's interpreter, on CPU tensors, against the reference."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from sparselt.kernels import philox
from sparselt.kernels.augment import gpu, reference


@pytest.mark.parametrize(
    ("channels", "height", "width", "padding", "flip", "seed", "epoch", "last", "dtype"),
    [
        (3, 9, 7, 2, True, 2**64 - 3, 2**31 - 1, True, torch.float32),
        (1, 8, 8, 1, False, 1, 0, False, torch.float32),
        (3, 20, 20, 4, True, 5, 1, True, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("as_tensors", [False, True], ids=["numbers", "tensors"])
def test_draws_and_computes_the_same(channels, height, width, padding, flip, seed, epoch, last, dtype, as_tensors):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, height, width, channels), dtype=torch.uint8, generator=generator)
    images, indices = images.permute(0, 3, 1, 2), torch.tensor([0, 1, 2**31, 2**32 - 1, 77])
    mean, std = [0.4, 0.5, 0.6][:channels], [0.2, 0.3, 0.25][:channels]
    signed = seed - 2**64 if seed >= 2**63 else seed
    at = (0, 0, torch.tensor(signed), torch.tensor(epoch)) if as_tensors else (signed, epoch, None, None)
    got = gpu.augment(images, indices, *at, padding, flip, mean, std, 255.0, last, dtype)
    expected = reference.augment(
        images, indices, seed=seed, epoch=epoch, padding=padding, flip=flip, mean=mean, std=std
    )
    # The interpreter truncates to bfloat16 where the hardware rounds, hence the tolerance of a whole unit.
    tolerance = 1e-5 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=1e-5)
    assert got.dtype == dtype


@triton.jit
def draw(out, seed, sample, epoch, stream):
    word0, word1, word2, word3 = tl.philox(seed, sample, epoch, stream, 0)
    tl.store(out, word0.to(tl.int64))
    tl.store(out + 1, word1.to(tl.int64))
    tl.store(out + 2, word2.to(tl.int64))
    tl.store(out + 3, word3.to(tl.int64))


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 17])
def test_triton_draws_the_same_words(seed):
    out = torch.zeros(4, dtype=torch.int64)
    draw[(1,)](out, seed, 1234, 5, philox.FLIP)
    assert out.tolist() == philox.philox4x32(np.array([[1234, 5, philox.FLIP, 0]]), *philox.key_of(seed))[0].tolist()
