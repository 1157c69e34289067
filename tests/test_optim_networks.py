"""Several networks in one MaskedSGD, each beside the same network alone; hyperparameters that are tensors."""

import itertools

import pytest
import torch
from optim_cases import assert_same_weights, give_gradients, network, random_mask
from torch import nn

from sparselt import MaskedSGD
from sparselt.errors import MaskError, SettingError

OWN = {
    "lr": [0.1, 0.05, 0.02],
    "momentum": [0.9, 0.5, 0.0],
    "weight_decay": [0.0, 0.1, 0.01],
    "nesterov": [True, False, False],
    "maximize": (False, True, False),
}


@pytest.mark.parametrize("live_momentum", [False, True])
def test_each_network_gets_to_the_bit_what_it_gets_alone(live_momentum):
    together, alone = ([network(seed) for seed in range(3)] for _ in range(2))
    masks = [random_mask(together[0]), None, random_mask(together[2], 0.1, 7)]
    options = {"decoupled_weight_decay": True, "live_momentum": live_momentum}
    optimizer = MaskedSGD.of_networks(together, masks, **OWN, **options)
    single = [
        MaskedSGD(model.named_parameters(), mask=masks[k], **{key: values[k] for key, values in OWN.items()}, **options)
        for k, model in enumerate(alone)
    ]
    schedulers = [torch.optim.lr_scheduler.MultiStepLR(each, [2], gamma=0.1) for each in (optimizer, *single)]
    for step, model in itertools.product(range(4), range(3)):
        for one in (together[model], alone[model]):
            give_gradients(one, 10 * step + model, missing=0.2)
        single[model].step()
        if model == 2:
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
    for one, other in zip(together, alone, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_groups_and_parameters_are_named_by_network():
    networks = [network(0), network(1)]
    mask = random_mask(networks[1])
    optimizer = MaskedSGD.of_networks(networks, [None, mask], lr=[0.1, 0.2])
    assert [(group["network"], group["lr"]) for group in optimizer.param_groups] == [(0, 0.1), (1, 0.2)]
    assert optimizer.param_groups[1]["param_names"][0] == "1.0.weight"
    assert optimizer.mask.keys() == {f"1.{name}" for name in mask}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": [0.1]}, SettingError, "lr has 1 values for 2 networks"),
        ({"learning_rate": 0.1}, SettingError, "no option 'learning_rate'"),
        ({"momentum": [0.9, -1.0]}, SettingError, "momentum is -1.0"),
        ({"masks": [None]}, MaskError, "1 masks for 2 networks"),
        ({"masks": random_mask(network())}, MaskError, "one mask for 2 networks"),
        ({"masks": [None, {"5.weight": torch.ones(3).bool()}]}, MaskError, r"network 1: the mask of 5.weight has"),
    ],
)
def test_options_that_fit_no_network_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        MaskedSGD.of_networks([network(), network()], **options)


def test_no_network_and_networks_that_differ_in_dtype_are_refused():
    with pytest.raises(SettingError, match="no network"):
        MaskedSGD.of_networks([])
    with pytest.raises(SettingError, match=r"1\.0\.weight is torch.float64"):
        MaskedSGD.of_networks([network(), network().double()])


TENSORS = ("lr", "momentum", "dampening", "weight_decay")


@pytest.mark.parametrize("decoupled", [False, True])
def test_tensor_hyperparameters_are_read_in_every_step(decoupled):
    numbers = {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}
    ours, theirs = network(), network()
    first = MaskedSGD(
        ours.named_parameters(),
        decoupled_weight_decay=decoupled,
        **{key: torch.tensor(value) for key, value in numbers.items()},
    )
    second = MaskedSGD(theirs.named_parameters(), decoupled_weight_decay=decoupled, **numbers)
    for step in range(4):
        for model, optimizer in ((ours, first), (theirs, second)):
            give_gradients(model, step)
            optimizer.step()
            for key in TENSORS:
                if optimizer is first:
                    optimizer.param_groups[0][key].mul_(0.5)
                else:
                    optimizer.param_groups[0][key] *= 0.5
    assert_same_weights(ours, theirs)


def test_a_tensor_momentum_of_zero_keeps_a_buffer():
    model = network()
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=torch.zeros(()))
    before = model[0].bias.detach().clone()
    give_gradients(model, 0)
    optimizer.step()
    assert len(optimizer.state) == len(list(model.parameters()))
    torch.testing.assert_close(model[0].bias, before - 0.1 * model[0].bias.grad)


def test_one_network_in_place_of_several_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    mask = {"0.weight": torch.ones(2, 2, dtype=torch.bool)}
    with pytest.raises(SettingError, match=r"networks is one network, a Sequential; expected several: give \[model\]"):
        MaskedSGD.of_networks(model, mask)
    with pytest.raises(SettingError, match="network 1 is a str; expected a network"):
        MaskedSGD.of_networks([model, "x"])
    assert len(MaskedSGD.of_networks(nn.ModuleList([model, nn.Linear(2, 2)])).param_groups) == 2
