"""What interpolate refuses, and that nothing has been written then."""

import pytest
import torch

from sparselt.kernels import interpolate
from sparselt.kernels.interpolate import project_to_hull

A, B = torch.zeros(2, 3), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("ends", "coefficients", "options", "message"),
    [
        ([A], torch.zeros(3), {}, "1 end points"),
        ([], torch.zeros(3), {}, "0 end points"),
        ([A, B], torch.zeros(3, 2), {}, r"shape \(3, 2\): expected \[K\]"),
        ([A, B, B], torch.zeros(3), {}, r"expected \[K, 2\]"),
        ([A, B, B], torch.zeros(3, 3), {}, r"expected \[K, 2\]"),
        ([A, B], torch.zeros(3, dtype=torch.int64), {}, "coefficients are torch.int64"),
        ([A.long(), B.long()], torch.zeros(3), {}, "tensor 0 is torch.int64"),
        ([[A, A], [B]], torch.zeros(3), {}, "end points of 2, 1 tensors"),
        ([[A, A], [B, B[:1]]], torch.zeros(3), {}, "tensor 1 of end point 1"),
        ([A, B.double()], torch.zeros(3), {}, "tensor 0 of end point 1 is torch.float64"),
        ([A, B.to("meta")], torch.zeros(3), {}, "on meta"),
        ([A, B], torch.zeros(3), {"prunable": [True, False]}, "2 prunable flags"),
        ([A, B], torch.zeros(3), {"masks": [A]}, "mask 0 is torch.float32"),
        ([A, B], torch.zeros(3), {"masks": [A[:1].bool()]}, "mask 0 is torch.bool"),
        ([A, B], torch.zeros(3), {"out": []}, "0 tensors to fill"),
        ([A, B], torch.zeros(3), {"out": torch.zeros(2, 2, 3)}, "out 0 is"),
        ([A, B], torch.zeros(3), {"out": [torch.zeros(3, 3, 2).transpose(1, 2)]}, "out 0 has strides"),
        ([A, B], torch.zeros(3), {"out": [torch.zeros(2, 3).expand(3, 2, 3)]}, "out 0 has strides"),
    ],
)
def test_bad_arguments_are_named(ends, coefficients, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        interpolate(ends, coefficients, **options)


M = torch.arange(100.0)


@pytest.mark.parametrize(
    ("ends", "options", "message"),
    [
        ([M[:6], M[6:12]], {"out": [M[4:16].view(2, 6)]}, "out 0 and tensor 0 of end point 0 share"),
        ([M[:6], M[6:12]], {"out": [M[11:23].view(2, 6)]}, "out 0 and tensor 0 of end point 1 share"),
        ([M[:6], M[6:12], M[20:26]], {"out": [M[14:26].view(2, 6)]}, "out 0 and tensor 0 of end point 2 share"),
        ([M[:6], M[6:12]], {"out": [M.as_strided((2, 6), (9, 1), 3)]}, "out 0 and tensor 0 of end point 0 share"),
        (
            [[M[:1], M[1:7]], [M[:1], M[7:13]]],
            {"out": [torch.zeros(2, 1), M[6:18].view(2, 6)]},
            "out 1 and tensor 1 of end point 0 share",
        ),
        (
            [[M[:3], M[3:6]], [M[6:9], M[9:12]]],
            {"out": [M[20:26].view(2, 3), M[25:31].view(2, 3)]},
            "out 0 and out 1 sh",
        ),
        (
            [M[:8], M[8:16]],
            {"masks": [M.view(torch.bool)[80:88]], "out": [M[20:36].view(2, 8)]},
            "out 0 and mask 0 share",
        ),
    ],
)
def test_out_of_shared_memory_is_refused_before_it_is_written(ends, options, message):
    coefficients = torch.zeros(2) if len(ends) == 2 else torch.zeros(2, 2)
    with pytest.raises(ValueError, match=message):
        interpolate(ends, coefficients, **options)
    assert torch.equal(M, torch.arange(100.0))


def test_a_plane_cannot_be_projected_without_a_distance():
    for gram in (None, torch.ones(3)):
        with pytest.raises(ValueError, match="gram_matrix"):
            project_to_hull(torch.zeros(3, 2), gram)
