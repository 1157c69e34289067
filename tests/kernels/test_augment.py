"""augment on the CPU against the one-image-at-a-time reference, and as a torch operator."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselt.kernels import augment
from sparselt.kernels.augment import cpu, reference

pytestmark = pytest.mark.usefixtures("poisoned_outputs")
MEAN, STD = [0.4, 0.5, 0.6, 0.1], [0.2, 0.3, 0.25, 0.5]


def images(count=6, channels=3, height=9, width=7, nhwc=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    batch = torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)
    return batch.contiguous(memory_format=torch.channels_last) if nhwc else batch


def settings_of(channels=3, **changes):
    given = {"seed": 3, "epoch": 1, "padding": 2, "flip": True, "mean": MEAN[:channels], "std": STD[:channels]}
    return {**given, **changes}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(0, 5),
    st.sampled_from([1, 3, 4]),
    st.integers(1, 11),
    st.integers(1, 11),
    st.integers(0, 12),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**31 - 1),
    st.sampled_from([255.0, 16.0]),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_matches_the_reference(count, channels, height, width, padding, flip, nhwc, last, seed, epoch, scale, dtype):
    batch = images(count, channels, height, width, nhwc)
    indices = torch.randint(0, 2**32, (count,), generator=torch.Generator().manual_seed(seed % 1000))
    given = settings_of(channels, seed=seed, epoch=epoch, padding=padding, flip=flip, scale=scale)
    got = augment(batch, indices, channels_last=last, dtype=dtype, **given)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    tolerance = 1e-5 if dtype == torch.float32 else 2**-8
    expected = reference.augment(batch, indices, **given)
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=1e-5)
    if dtype == torch.bfloat16:
        assert torch.equal(got, augment(batch, indices, channels_last=last, **given).bfloat16())


def test_strides_of_the_images_do_not_matter():
    whole = images(8, 3, 12, 10)
    for batch in (
        whole[::2, :, 1:, 2:9],
        whole.flip(3)[:4],
        whole[:, :1].expand(-1, 3, -1, -1),
        whole[:1].expand(4, -1, -1, -1),
    ):
        given = settings_of()
        expected = augment(batch.contiguous(), torch.arange(len(batch)), **given)
        assert torch.equal(augment(batch, torch.arange(len(batch)), **given), expected)


@pytest.mark.parametrize("seed", [0, 5, 2**63 - 1, 2**63 + 1, 2**64 - 1])
def test_seed_and_epoch_may_be_tensors(seed):
    batch, indices = images(16), torch.arange(16)
    expected = augment(batch, indices, **settings_of(seed=seed, epoch=7))
    as_tensor = torch.tensor(seed - 2**64 if seed >= 2**63 else seed)
    for position in ({"seed": as_tensor, "epoch": 7}, {"seed": seed, "epoch": torch.tensor(7)}):
        assert torch.equal(augment(batch, indices, **settings_of(**position)), expected)


def test_without_padding_and_flip_it_only_normalizes():
    batch = images()
    got = augment(batch, torch.arange(6), **settings_of(padding=0, flip=False))
    mean, std = (torch.tensor(values[:3]).view(1, 3, 1, 1) for values in (MEAN, STD))
    torch.testing.assert_close(got, (batch / 255 - mean) / std)


def test_an_image_is_augmented_alike_in_every_batch_and_by_any_number_of_threads(monkeypatch):
    batch, indices, given = images(64), torch.arange(100, 164), settings_of()
    whole = augment(batch, indices, **given)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(augment(batch[order], indices[order], **given), whole[order])
    threads = torch.get_num_threads()
    monkeypatch.setattr(cpu, "PARALLEL_FROM", 1)
    try:
        torch.set_num_threads(3)
        assert torch.equal(augment(batch, indices, **given), whole)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("changes", [{"seed": 4}, {"seed": 3 + 2**32}, {"epoch": 2}])
def test_seed_and_epoch_change_the_draws(changes):
    given = settings_of()
    assert not torch.equal(
        augment(images(64), torch.arange(64), **given), augment(images(64), torch.arange(64), **{**given, **changes})
    )


def test_crops_are_uniform_and_half_the_images_are_flipped():
    import numpy as np

    rows, columns, flips = reference.draws(np.arange(50_000), seed=11, epoch=0, padding=4)
    for offsets in (rows, columns):
        counts = np.bincount(offsets, minlength=9)
        # Chi-square with 8 degrees of freedom: above 26.1 once in a thousand seeds; this one seed is fixed.
        assert len(counts) == 9 and ((counts - 50_000 / 9) ** 2 / (50_000 / 9)).sum() < 26.1
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.02
    assert abs(flips.mean() - 0.5) < 0.01


@pytest.mark.parametrize(
    ("batch", "indices", "changes", "message"),
    [
        (images().float(), torch.arange(6), {}, "images are torch.float32"),
        (images()[0], torch.arange(6), {}, "3 dimensions"),
        (images(), torch.arange(5), {}, "indices are"),
        (images(), torch.arange(6).int(), {}, "indices are torch.int32"),
        (images(), torch.arange(6), {"seed": -1}, "seed -1"),
        (images(), torch.arange(6), {"epoch": 2**31}, "epoch 2147483648"),
        (images(), torch.arange(6), {"epoch": torch.tensor(-1)}, "epoch -1"),
        (images(), torch.arange(6), {"epoch": torch.tensor([1])}, r"epoch is torch.int64 \(1,\)"),
        (images(), torch.arange(6), {"seed": torch.tensor(1.0)}, "seed is torch.float32"),
        (images(), torch.arange(6), {"seed": torch.tensor(1, device="meta")}, "on meta"),
        (images(), torch.arange(6), {"dtype": torch.float16}, "dtype is torch.float16"),
        (images(), torch.arange(6).to("meta"), {}, "on meta"),
        (images(), torch.arange(6), {"padding": -1}, "padding is -1"),
        (images(), torch.arange(6), {"mean": [0.5]}, "1 means and 3 stds for 3 channels"),
        (images(), torch.arange(6), {"std": [0.0, 1.0, 1.0]}, "above 0"),
        (images(), torch.arange(6), {"scale": 0.0}, "above 0"),
        (images(), torch.arange(6), {"mean": [float("nan"), 0.0, 0.0]}, "must be finite"),
    ],
)
def test_bad_arguments_are_named(batch, indices, changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        augment(batch, indices, **settings_of(**changes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operator_passes_torchs_own_checks(dtype):
    for seed, epoch in ((None, None), (torch.tensor(3), torch.tensor(1))):
        places = (3, 1, seed, epoch, 2, True, MEAN[:3], STD[:3], 255.0, dtype == torch.float32, dtype)
        torch.library.opcheck(torch.ops.sparselt.augment.default, (images(), torch.arange(6), *places))


def test_compiles_into_one_graph_and_computes_the_same():
    def normalized(batch, indices, epoch):
        return augment(batch, indices, **settings_of(epoch=epoch)) * 2

    traced = torch.compile(normalized, fullgraph=True, backend="aot_eager")
    for epoch in range(12):  # more than torch's limit of recompilations: the epoch is no constant of the graph
        for at in (epoch, torch.tensor(epoch)):
            assert torch.equal(traced(images(), torch.arange(6), at), normalized(images(), torch.arange(6), at))
