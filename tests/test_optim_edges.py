"""Masked optimizers where a user's own loop meets them: wrapped models, saved states, frozen layers."""

import copy
import warnings

import pytest
import torch
from optim_cases import give_gradients, network, random_mask
from torch.optim.swa_utils import AveragedModel

from sparselt import Mask, MaskedAdam, MaskedAdamW, MaskedRMSprop, MaskedSGD, magnitude_prune, prune
from sparselt.errors import MaskError, SettingError
from sparselt.optim import keep_masked


def trained(kind=MaskedSGD, steps=2, **options):
    model = network()
    mask = random_mask(model)
    optimizer = kind(model.named_parameters(), lr=0.1, mask=mask, **options)
    for step in range(steps):
        give_gradients(model, step)
        optimizer.step()
    return model, mask, optimizer


def wrapped(model, how):
    if how == "compiled":
        return torch.compile(model, backend="eager")
    if how == "parts":
        model[0] = torch.compile(model[0], backend="eager")
        return model
    return AveragedModel(model) if how == "averaged" else torch.nn.DataParallel(model)


@pytest.mark.parametrize("how", ["compiled", "parts", "averaged", "parallel"])
def test_masks_see_through_wrappers_both_ways(how):
    plain, model = network(), wrapped(network(), how)
    names = [name for name, _ in model.named_parameters()]
    mask = magnitude_prune(plain, Mask.ones_like(plain), fraction=0.5)
    found = magnitude_prune(model, Mask.ones_like(plain), fraction=0.5)
    assert found == mask and not any(name in names for name in mask if how != "parts")
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, mask=mask)
    give_gradients(model, 0)
    optimizer.step()
    for name, layer in mask.named_as(dict(model.named_parameters())).items():
        assert (model.get_parameter(name) != 0).equal(layer), name
    own = Mask.ones_like(model)  # named as in the wrapped model
    assert magnitude_prune(plain, own, fraction=0.5).named_as(dict(plain.named_parameters())) == mask
    keep_masked(torch.optim.SGD(plain.parameters(), lr=0.1), plain, mask.named_as(dict(model.named_parameters())))
    assert all((plain.get_parameter(name) != 0).equal(layer) for name, layer in mask.items())


@pytest.mark.parametrize("criterion", ["magnitude", "snip"])
def test_criteria_see_through_wrappers_too(criterion):
    plain, model = network(), AveragedModel(network())
    batches = [(torch.randn(6, 3, 8, 8), torch.arange(6) % 4)]
    mask = Mask.ones_like(plain)
    found = [prune(each, mask, 0.5, criterion, batches=batches) for each in (plain, model)]
    assert found[0] == found[1] and found[0].keys() == mask.keys()


def test_a_name_that_fits_two_parameters_is_refused():
    inner = torch.nn.Linear(3, 2)
    model = torch.nn.ModuleDict({"a": inner, "b": torch.nn.ModuleDict({"module": torch.nn.Linear(3, 2)})})
    mask = {"module.b.weight": torch.ones(2, 3).bool()}
    MaskedSGD(model.named_parameters(), lr=0.1, mask=mask)
    model["b"]["_orig_mod"] = torch.nn.Linear(3, 2)
    with pytest.raises(MaskError, match=r"layer 'module\.b\.weight', which is no parameter"):
        MaskedSGD(model.named_parameters(), lr=0.1, mask=mask)
    with pytest.raises(MaskError, match="is not a parameter of this model"):
        Mask(mask).apply_(model)
    both = {"a.weight": torch.ones(2, 3).bool(), "module.a.weight": torch.zeros(2, 3).bool()}
    with pytest.raises(MaskError, match=r"layer 'module\.a\.weight', which is no parameter"):
        MaskedSGD(model.named_parameters(), lr=0.1, mask=both)


def test_an_average_that_was_copied_before_the_mask_is_masked_by_name():
    model = network()
    average = AveragedModel(model)
    mask = Mask(random_mask(model))
    MaskedSGD(model.named_parameters(), lr=0.1, mask=mask)
    assert average.module[5].weight[~mask["5.weight"]].all()
    mask.apply_(average)
    assert all((average.module.get_parameter(name) != 0).equal(layer) for name, layer in mask.items())


@pytest.mark.parametrize(("kind", "options"), [(MaskedSGD, {"momentum": 0.9}), (MaskedAdam, {"live_state": True})])
def test_a_resume_without_the_mask_takes_the_one_in_the_state(kind, options, tmp_path):
    model, mask, optimizer = trained(kind, **options)
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "checkpoint")
    weights, state = torch.load(tmp_path / "checkpoint", weights_only=True)
    again = network(seed=7)
    again.load_state_dict(weights)
    resumed = kind(again.named_parameters(), lr=0.5, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed.load_state_dict(state)
    assert Mask(resumed.mask) == Mask(mask)
    for step in range(3):
        for one, of in ((model, optimizer), (again, resumed)):
            give_gradients(one, step)
            of.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


def test_a_state_with_a_mask_still_loads_into_torchs_optimizer_and_one_without_is_torchs():
    model, _, optimizer = trained(momentum=0.9)
    theirs = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5)
    theirs.load_state_dict(optimizer.state_dict())
    assert theirs.param_groups[0]["momentum"] == 0.9
    assert torch.equal(
        theirs.state[model[0].weight]["momentum_buffer"], optimizer.state[model[0].weight]["momentum_buffer"]
    )
    dense = MaskedSGD(model.named_parameters(), lr=0.1)
    assert dense.state_dict().keys() == theirs.state_dict().keys()


def test_what_a_saved_mask_leaves_in_doubt_is_said():
    model, mask, optimizer = trained(momentum=0.9)
    state = copy.deepcopy(optimizer.state_dict())
    unnamed = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9)
    unnamed.load_state_dict(state)  # torch takes the saved names along
    assert Mask(unnamed.mask) == Mask(mask)
    renamed = torch.nn.ModuleDict({"net": copy.deepcopy(model)})
    with pytest.warns(UserWarning, match=r"saved under a mask, and is loaded without it: .*layer '0.weight'"):
        MaskedSGD(renamed.named_parameters(), lr=0.1, momentum=0.9).load_state_dict(state)
    known = {f"net.{name}": layer for name, layer in mask.items()}
    kept = MaskedSGD(renamed.named_parameters(), lr=0.1, momentum=0.9, mask=known)
    with pytest.warns(UserWarning, match="loaded without it"):
        kept.load_state_dict(state)
    give_gradients(renamed["net"], 5)
    kept.step()
    assert (renamed["net"][5].weight != 0).equal(mask["5.weight"])
    fewer = {name: layer & (torch.rand(layer.shape) < 0.5) for name, layer in mask.items()}
    pruned = MaskedSGD(copy.deepcopy(model).named_parameters(), lr=0.1, momentum=0.9, mask=fewer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruned.load_state_dict(state)  # a state of more weights is what a pruned network is rewound to
    assert pruned.mask is fewer
    other = {name: layer.clone() for name, layer in mask.items()}
    other["5.weight"] |= True
    gone = int((~mask["5.weight"]).sum())
    regrown = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, mask=other)
    with pytest.warns(UserWarning, match=f"{gone} weights that it prunes live in this optimizer's"):
        regrown.load_state_dict(state)
    assert regrown.mask is other


@pytest.mark.parametrize("frozen", [("0.weight",), ("0.weight", "0.bias", "3.weight", "5.weight")])
def test_dense_weights_loaded_into_frozen_layers_are_masked_in_the_next_step(frozen):
    model, mask, optimizer = trained(momentum=0.9)
    dense = network(seed=3).state_dict()
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    for step in range(2):
        model.load_state_dict(dense)
        give_gradients(model, step)
        for name in frozen:
            model.get_parameter(name).grad = None
        optimizer.step()
        for name, layer in mask.items():
            assert (model.get_parameter(name) != 0).equal(layer), name
            if name in frozen:
                assert torch.equal(model.get_parameter(name), dense[name] * layer)


def test_a_mask_of_a_frozen_layer_that_was_left_out_is_named_so():
    model = network()
    model[0].weight.requires_grad_(False)
    given = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    with pytest.raises(
        MaskError, match=r"'0\.weight', which is no parameter .* another model\? A frozen parameter"
    ) as refusal:
        MaskedSGD(given, lr=0.1, mask=random_mask(model))
    assert "nearest" not in str(refusal.value)


def test_a_mask_may_be_assigned():
    model, mask, optimizer = trained(momentum=0.9)
    fewer = {"5.weight": mask["5.weight"] & (torch.rand(4, 180) < 0.5)}
    optimizer.mask = fewer
    assert optimizer.mask is fewer and (model[5].weight != 0).equal(fewer["5.weight"])
    with pytest.raises(MaskError, match="has shape"):
        optimizer.mask = {"5.weight": torch.ones(3).bool()}


def test_state_of_adamw_is_refused_by_name():
    model = network()
    theirs = torch.optim.AdamW(model.parameters())
    give_gradients(model, 0)
    theirs.step()
    for options in ({}, {"momentum": 0.9}):
        with pytest.raises(SettingError, match=r"no dampening, momentum.*another optimizer than MaskedSGD"):
            MaskedSGD(model.named_parameters(), lr=0.1, **options).load_state_dict(theirs.state_dict())


def test_a_mask_without_a_process_group_is_that_of_its_only_rank():
    mask = Mask(random_mask(network()))
    assert mask.broadcast() is mask


@pytest.mark.parametrize("again", [lambda optimizer: optimizer, copy.deepcopy])
def test_a_state_may_be_loaded_twice_and_into_a_copy(again):
    *_, optimizer = trained(momentum=0.9)
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(state)
    other = again(optimizer)
    other.load_state_dict(state)
    found = [p for group in other.param_groups for p in group["params"]]
    buffers = [other.state[p]["momentum_buffer"] for p in found]
    assert all(torch.equal(buffer, state["state"][i]["momentum_buffer"]) for i, buffer in enumerate(buffers))


@pytest.mark.parametrize("optimizer", [MaskedSGD, MaskedAdam, MaskedAdamW, MaskedRMSprop])
def test_a_compiled_training_step_and_a_compiled_optimizer_step_train_as_plain_ones(optimizer):
    def weights_after(compiled):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        mask = magnitude_prune(model, Mask.ones_like(model), 0.5)
        opt = optimizer(model.named_parameters(), lr=0.1, mask=mask)
        x, y = torch.randn(16, 6), torch.randint(3, (16,))
        hooked = []
        opt.register_step_post_hook(lambda *_: hooked.append(1))

        def step():
            opt.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            opt.step()

        whole, alone = (torch.compile(f, backend="aot_eager") if compiled else f for f in (step, opt.step))
        for _ in range(3):
            whole()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        alone()
        assert len(hooked) == 4
        return [p.detach() for p in model.parameters()]

    assert all(map(torch.equal, weights_after(compiled=True), weights_after(compiled=False)))
