"""bfloat16 copies of weights, written by a masked optimizer's pass on the CPU, and their gradients."""

import pytest
import torch
from kernel_cases import Options
from shadow_cases import check

from sparselt.kernels import masked_sgd_
from sparselt.kernels.masked_sgd import pack_mask


@pytest.mark.parametrize("live_state", [False, True])
@pytest.mark.parametrize("name", ["sgd", "sgd without momentum", "adam", "rmsprop"])  # each compiles for seconds
def test_rules_write_copies_and_read_their_gradients(name, live_state):
    check("random", name, live_state)


@pytest.mark.parametrize("live_state", [False, True])
@pytest.mark.parametrize("mask", ["few", "empty", "one weight", "full"])
def test_copies_under_other_masks(mask, live_state):
    check(mask, "sgd", live_state)


def arguments(**changes):
    given = {
        "parameters": [torch.ones(5), torch.ones(4, 3)],
        "gradients": [torch.ones(5), torch.full((4, 3), 2.0, dtype=torch.bfloat16)],
        "momentum": torch.zeros(2048),
        "mask": pack_mask(torch.ones(2048, dtype=torch.bool)),
        "hyperparameters": torch.tensor([Options().row()]),
        "shadow": torch.zeros(2048, dtype=torch.bfloat16),
    }
    return {**given, **changes}


def test_the_operator_writes_copies_of_the_parameters_with_bfloat16_gradients_alone():
    given = arguments()
    masked_sgd_(**given)
    found = given["shadow"]
    assert torch.equal(found[1024:1036], given["parameters"][1].bfloat16().view(-1))
    assert found.count_nonzero() == 12


def test_the_operator_with_copies_passes_torchs_own_checks():
    a = arguments()
    required = [a.pop(name) for name in ("parameters", "gradients", "momentum", "mask", "hyperparameters")]
    torch.library.opcheck(torch.ops.sparselt.masked_sgd.default, (*required, [0, 1024], [0, 0], False, True), kwargs=a)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shadow": None}, "the gradient of parameter 1 is torch.bfloat16"),
        ({"shadow": torch.zeros(2048)}, r"shadow is torch.float32 \(2048,\)"),
        ({"shadow": torch.zeros(1024, dtype=torch.bfloat16)}, r"shadow is torch.bfloat16 \(1024,\)"),
        (
            {"parameters": [torch.ones(5).double(), torch.ones(4, 3).double()], "momentum": torch.zeros(2048).double()},
            "the gradient of parameter 0 is torch.float32",
        ),
    ],
)
def test_copies_that_do_not_fit_are_refused_and_nothing_is_written(changes, message):
    given = arguments(**changes)
    with pytest.raises(ValueError, match=message):
        masked_sgd_(**given)
    assert all((p == 1).all() for p in given["parameters"])
