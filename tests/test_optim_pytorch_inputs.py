"""PyTorch's own test inputs for its optimizers, given to ours with a full mask and to torch's."""

import warnings

import pytest
import torch
from optim_cases import assert_same_weights, give_gradients, network, random_mask

from sparselt import MaskedAdam, MaskedAdamW, MaskedRMSprop, MaskedSGD
from sparselt.errors import SettingError

pytest.importorskip("expecttest", reason="torch's own test inputs import it")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal import common_optimizers

KINDS = {"sgd": MaskedSGD, "adam": MaskedAdam, "adamw": MaskedAdamW, "rmsprop": MaskedRMSprop}
THEIRS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}
INPUTS = [
    (name, given)
    for name in KINDS
    for given in getattr(common_optimizers, f"optim_inputs_func_{name}")(torch.device("cpu"))
]
REFUSED = [
    (name, given)
    for name in KINDS
    for given in getattr(common_optimizers, f"optim_error_inputs_func_{name}")(torch.device("cpu"), torch.float32)
    if "foreach" not in given.optimizer_error_input.kwargs  # ours has no such option
]


@pytest.mark.parametrize(("name", "given"), INPUTS, ids=lambda value: getattr(value, "desc", value))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("live", [False, True])
def test_inputs_give_the_same_weights(name, given, dtype, live):
    ours, theirs = network().to(dtype), network().to(dtype)
    live_state = {"live_momentum" if name == "sgd" else "live_state": live}
    first = KINDS[name](ours.named_parameters(), mask=random_mask(ours, density=2.0), **live_state, **given.kwargs)
    second = THEIRS[name](theirs.parameters(), **given.kwargs)
    for step in range(4):
        for model, optimizer in ((ours, first), (theirs, second)):
            give_gradients(model, step, missing=0.2)
            optimizer.step()
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize(
    ("name", "given"), REFUSED, ids=lambda value: value if isinstance(value, str) else value.optimizer_error_input.desc
)
def test_what_torch_refuses_or_warns_of_is_refused_or_warned_of(name, given):
    kind, wrong = KINDS[name], given.optimizer_error_input
    params = network().parameters() if wrong.params is None else wrong.params
    if issubclass(given.error_type, UserWarning):
        # Torch steps a parameter that is given twice twice; in one pass over both that would be a race.
        with pytest.warns(given.error_type, match=given.error_regex), pytest.raises(SettingError, match="share memory"):
            kind(params, **wrong.kwargs)
    elif issubclass(given.error_type, Warning):
        with pytest.warns(given.error_type, match=given.error_regex):
            kind(params, **wrong.kwargs)
    else:
        # Hyperparameters are refused in words of our own.
        with pytest.raises(given.error_type, match=None if wrong.kwargs else given.error_regex):
            kind(params, **wrong.kwargs)
