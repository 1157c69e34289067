"""What MaskedSGD refuses: masks, parameters, gradients and states that do not fit, by name, with nothing written."""

import copy

import pytest
import torch
from optim_cases import give_gradients, network, random_mask
from torch import nn

from sparselt import MaskedAdam, MaskedRMSprop, MaskedSGD, SparseltError
from sparselt.errors import MaskError, SettingError


def layer(model, name="5.weight", **change):
    mask = random_mask(model)
    mask.update({name: change["to"]})
    return mask


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (lambda model: {"net.5.weight": torch.ones(4, 180).bool()}, "nearest name is '5.weight'"),
        (lambda model: layer(model, "zzzz", to=torch.ones(1).bool()), "mask of another model"),
        (lambda model: layer(model, to=torch.ones(180, 4).bool()), r"5.weight has shape \(180, 4\)"),
        (lambda model: layer(model, to=torch.ones(1, 180).bool()), r"5.weight has shape \(1, 180\)"),
        (lambda model: layer(model, to=torch.ones(4, 180)), "mask of 5.weight is torch.float32"),
        (lambda model: layer(model, to=[True]), "mask of 5.weight is list"),
        (lambda model: torch.ones(3), "mask is a Tensor"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_before_anything_is_written(mask, message):
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(MaskError, match=message):
        MaskedSGD(model.named_parameters(), lr=0.1, mask=mask(model))
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1)
    with pytest.raises(MaskError, match=message):
        optimizer.set_mask(mask(model))
    assert optimizer.mask is None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_mask_needs_named_parameters():
    model = network()
    with pytest.raises(MaskError, match=r"pass model\.named_parameters\(\)"):
        MaskedSGD(model.parameters(), lr=0.1, mask=random_mask(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, "lr is -0.1"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"lr": torch.ones(2)}, "tensor of 2 elements"),
        ({"momentum": -1}, "momentum is -1"),
        ({"weight_decay": -1}, "weight_decay is -1"),
        ({"weight_decay": float("inf")}, "weight_decay is inf"),
        ({"momentum": 0.9, "dampening": float("nan")}, "dampening is nan"),
        ({"nesterov": True}, "nesterov needs a momentum"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov needs a momentum"),
        ({"lr": 0.0, "decoupled_weight_decay": True}, "first lr, which is 0"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(SettingError, match=message):
        MaskedSGD(network().named_parameters(), **options)
    with pytest.raises(SettingError, match=message):
        MaskedSGD([{"params": list(network().named_parameters()), **options}], lr=0.1)


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (torch.zeros(4, dtype=torch.float16), "odd is torch.float16"),
        (torch.zeros(4, dtype=torch.float64), "odd is torch.float64 on cpu, but even is torch.float32"),
        (torch.zeros(4, device="meta"), "odd is on meta"),
        (torch.zeros(4, 4)[:, ::2], "odd has shape"),
        (torch.zeros(1, 4).expand(4, 4), "odd has shape"),
    ],
)
def test_a_parameter_no_kernel_serves_is_named(parameter, message):
    even = nn.Parameter(torch.ones(3))
    odd = parameter.detach().requires_grad_()
    with pytest.raises(SettingError, match=message):
        MaskedSGD([("even", even), ("odd", odd)], lr=0.1)
    optimizer = MaskedSGD([("even", even)], lr=0.1)
    with pytest.raises(SettingError, match=message):
        optimizer.add_param_group({"params": [("odd", odd)]})
    even.grad = torch.ones(3)
    optimizer.step()  # the optimizer is as it was before the refused group
    assert torch.allclose(even, torch.tensor(0.9))


def test_an_unnamed_parameter_is_named_by_its_place():
    with pytest.raises(SettingError, match=r"parameter 1 of group 0 is torch\.float16"):
        MaskedSGD([torch.zeros(1, requires_grad=True), torch.zeros(1).half().requires_grad_()], lr=0.1)


def test_a_parameter_that_changed_shape_is_refused_before_anything_is_written():
    for masked in (False, True):
        model = network()
        mask = random_mask(model) if masked else None
        optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, mask=mask)
        give_gradients(model, 0)
        optimizer.step()
        before = model[0].weight.detach().clone()
        model[5].weight.data = torch.ones(4, 90)
        model[5].weight.grad = torch.ones(4, 90)
        with pytest.raises(SparseltError, match=r"5\.weight"):
            optimizer.step()
        assert torch.equal(model[0].weight, before)


def test_gradients_that_do_not_fit_are_refused_before_anything_is_written():
    model = network()
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1)
    before = copy.deepcopy(model.state_dict())
    give_gradients(model, 0)
    model[5].weight.grad = model[5].weight.grad.to_sparse()
    with pytest.raises(SettingError, match=r"gradient of 5\.weight is torch\.sparse"):
        optimizer.step()
    give_gradients(model, 0)
    model[5].weight.data = model[5].weight.data.double()
    for p in list(model.parameters())[:-2]:
        p.data = p.data.double()
        p.grad = p.grad.double()
    model[5].bias.data = model[5].bias.data.double()
    with pytest.raises(SettingError, match="call zero_grad"):
        optimizer.step()
    assert all(torch.equal(before[name].double(), t.double()) for name, t in model.state_dict().items())


def test_a_gradient_left_from_before_a_parameter_grew_is_refused():
    # The strides are the same, so only its size tells that the gradient is too short for the kernel.
    weight = nn.Parameter(torch.ones(6, 5))
    optimizer = MaskedSGD([("weight", weight)], lr=0.1)
    weight.grad = torch.ones(6, 5)
    optimizer.step()
    weight.data = torch.ones(8, 5)
    optimizer.refresh()
    with pytest.raises(SettingError, match=r"gradient of weight is torch\.float32 \(6, 5\)"):
        optimizer.step()
    assert (weight == 1).all()


def test_the_state_of_another_model_is_refused_before_anything_is_written():
    model, other = network(), network()
    other[5] = nn.Linear(90, 4)
    source = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    give_gradients(other, 0)
    source.step()
    optimizer = MaskedSGD(model.named_parameters(), lr=0.5, momentum=0.9)
    with pytest.raises(SettingError, match=r"momentum of 5\.weight has shape \(4, 90\)"):
        optimizer.load_state_dict(source.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.5 and not optimizer.state


def test_parameters_that_share_memory_are_refused():
    memory = torch.zeros(10)
    first, second = nn.Parameter(memory[:6]), nn.Parameter(memory[4:])
    with pytest.raises(SettingError, match="first and second share memory"):
        MaskedSGD([("first", first), ("second", second)], lr=0.1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: torch.ones(4, 360)[:, ::2], r"5\.weight has shape \(4, 180\) and strides \(360, 2\)"),
        (lambda w: torch.ones(1, 180).expand(4, 180), r"5\.weight has shape \(4, 180\) and strides \(0, 1\)"),
        (lambda w: w.half(), r"5\.weight is torch.float16"),
        (lambda w: w.double(), r"5\.weight is torch.float64 on cpu, but 0\.weight is torch.float32"),
    ],
    ids=["gaps", "overlap", "float16", "float64"],
)
@pytest.mark.parametrize("live_momentum", [False, True])
def test_a_parameter_that_no_kernel_serves_any_longer_is_refused_before_anything_is_written(
    spoil, message, live_momentum
):
    model = network()
    mask = random_mask(model)
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, mask=mask, live_momentum=live_momentum)
    give_gradients(model, 0)
    optimizer.step()
    before = copy.deepcopy(model.state_dict())
    kept = model[5].weight.data
    model[5].weight.data = spoil(kept)
    with pytest.raises(SettingError, match=message):
        optimizer.step()
    model[5].weight.data = kept
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    optimizer.step()
    assert (model[5].weight != 0).equal(mask["5.weight"])


@pytest.mark.parametrize(("key", "value"), [("mask", {}), ("live_momentum", True)])
def test_what_holds_for_all_groups_is_refused_in_one(key, value):
    with pytest.raises(SettingError, match=f"a parameter group has '{key}'"):
        MaskedSGD([{"params": [torch.nn.Parameter(torch.ones(2))], key: value}], lr=0.1)


@pytest.mark.parametrize("key", ["lr", "momentum", "dampening", "weight_decay"])
def test_a_text_is_no_hyperparameter(key):
    with pytest.raises(SettingError, match=f"{key} is '0.1': expected a number"):
        MaskedSGD(network().named_parameters(), **{key: "0.1"})


@pytest.mark.parametrize(
    ("own", "other"),
    [
        (MaskedAdam, torch.optim.SGD),
        (MaskedSGD, torch.optim.Adam),
        (MaskedAdam, torch.optim.RMSprop),
    ],
)
def test_state_of_another_optimizer_is_refused_by_name(own, other):
    model = torch.nn.Linear(2, 2)
    with pytest.raises(SettingError, match=f"another optimizer than {own.__name__}"):
        own(model.named_parameters(), lr=0.1).load_state_dict(other(model.parameters(), lr=0.1).state_dict())


@pytest.mark.parametrize("betas", [0.9, (0.9,), (0.9, 1.0), ("a", 0.9)])
def test_betas_that_are_not_two_numbers_below_1_are_refused(betas):
    with pytest.raises(SettingError, match=r"betas is .*expected two numbers from 0 to below 1"):
        MaskedAdam(torch.nn.Linear(2, 2).named_parameters(), betas=betas)


def test_a_network_in_place_of_its_parameters_is_refused():
    with pytest.raises(SettingError, match=r"params is a Linear; expected its parameters: model\.named_parameters\(\)"):
        MaskedSGD(nn.Linear(2, 2))


def test_a_mapping_in_place_of_named_parameters_is_refused():
    with pytest.raises(SettingError, match=r"params is a dict; expected .* model\.named_parameters\(\)"):
        MaskedSGD(dict(nn.Linear(2, 2).named_parameters()))


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        (MaskedSGD, "live_momentum", "yes"),
        (MaskedSGD, "nesterov", 1),
        (MaskedSGD, "decoupled_weight_decay", None),
        (MaskedAdam, "live_state", 1),
        (MaskedAdam, "amsgrad", 3),
        (MaskedAdam, "maximize", "no"),
        (MaskedRMSprop, "centered", 2),
    ],
)
def test_an_option_that_is_neither_true_nor_false_is_refused(kind, option, value):
    with pytest.raises(SettingError, match=f"{option} is {value!r}: expected True or False"):
        kind(nn.Linear(2, 2).named_parameters(), **{option: value})
    if not option.startswith("live"):
        with pytest.raises(SettingError, match=f"{option} is {value!r}: expected True or False"):
            kind([{"params": list(nn.Linear(2, 2).named_parameters()), option: value}])


@pytest.mark.parametrize(
    ("state", "message"),
    [({}, "the saved state has no 'state'"), ({"state": {}}, "has no 'param_groups'"), (3, "the saved state is a int")],
)
def test_what_is_no_state_dict_is_refused(state, message):
    with pytest.raises(SettingError, match=f"{message}; expected what the state_dict"):
        MaskedSGD(nn.Linear(2, 2).named_parameters()).load_state_dict(state)


def test_an_option_that_became_a_text_is_named_in_the_next_step():
    model = network()
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9)
    give_gradients(model, 0)
    optimizer.step()
    optimizer.param_groups[0]["momentum"] = "x"
    with pytest.raises(SettingError, match="momentum is 'x': expected a number"):
        optimizer.step()
