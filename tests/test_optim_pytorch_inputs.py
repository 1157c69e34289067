"""PyTorch's own test inputs for SGD, given to MaskedSGD with a full mask and to torch.optim.SGD."""

import warnings

import pytest
import torch
from optim_cases import assert_same_weights, give_gradients, network, random_mask

from sparselt import MaskedSGD
from sparselt.errors import SettingError

pytest.importorskip("expecttest", reason="torch's own test inputs import it")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal import common_optimizers

INPUTS = common_optimizers.optim_inputs_func_sgd(torch.device("cpu"))
REFUSED = common_optimizers.optim_error_inputs_func_sgd(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("given", INPUTS, ids=lambda given: given.desc)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("live_momentum", [False, True])
def test_inputs_for_sgd_give_the_same_weights(given, dtype, live_momentum):
    ours, theirs = network().to(dtype), network().to(dtype)
    mask = random_mask(ours, density=2.0)
    first = MaskedSGD(ours.named_parameters(), mask=mask, live_momentum=live_momentum, **given.kwargs)
    second = torch.optim.SGD(theirs.parameters(), **given.kwargs)
    for step in range(4):
        for model, optimizer in ((ours, first), (theirs, second)):
            give_gradients(model, step, missing=0.2)
            optimizer.step()
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize("given", REFUSED, ids=lambda given: given.optimizer_error_input.desc)
def test_what_sgd_refuses_or_warns_of_is_refused_or_warned_of(given):
    wrong = given.optimizer_error_input
    params = network().parameters() if wrong.params is None else wrong.params
    if issubclass(given.error_type, UserWarning):
        # Torch steps a parameter that is given twice twice; in one pass over both that would be a race.
        with pytest.warns(given.error_type, match=given.error_regex), pytest.raises(SettingError, match="share memory"):
            MaskedSGD(params, **wrong.kwargs)
    elif issubclass(given.error_type, Warning):
        with pytest.warns(given.error_type, match=given.error_regex):
            MaskedSGD(params, **wrong.kwargs)
    else:
        # Hyperparameters are refused in words of our own.
        with pytest.raises(given.error_type, match=None if wrong.kwargs else given.error_regex):
            MaskedSGD(params, **wrong.kwargs)
