"""MaskedSGD on a CUDA device: live momentum, several networks, loss scaling, CUDA graphs. `make gpu` runs these."""

import pytest
import torch
from cuda_graphs import stepping
from kernel_cases import Case, Options, assert_answers

from sparselt import MaskedSGD
from sparselt.kernels import masked_sgd_
from sparselt.kernels.masked_sgd import block_table, pack_mask

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SHAPES = [(64, 32, 3, 3), (5,), (123, 41), (), (1025,), (100_003,), (0,)]
OPTIONS = {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.01}


def on_device(case: Case) -> Case:
    case.parameters = [torch.empty_like(p, device="cuda").copy_(p) for p in case.parameters]
    case.gradients = [[torch.empty_like(g, device="cuda").copy_(g) for g in step] for step in case.gradients]
    return case


@pytest.mark.parametrize("mask", ["empty", "full", "one weight", "random", "few"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chosen", [Options(weight_decay=0.1, dampening=0.3), Options(nesterov=True, shrink=0.95)])
def test_live_momentum_gives_the_bits_of_dense_momentum(chosen, dtype, mask):
    dense, live = (on_device(Case(SHAPES, "channels last", mask, dtype, special=False)) for _ in range(2))
    alive, rows = dense.live().cuda(), torch.tensor([chosen.row()], device="cuda")
    blocks, places = block_table(alive)
    momentum = torch.full((dense.length,), float("nan"), device="cuda")
    compact = torch.full((places,), float("nan"), device="cuda")
    steps = torch.zeros(len(blocks), dtype=torch.int32, device="cuda")
    for i in range(3):
        masked_sgd_(dense.parameters, dense.gradients[i], momentum, pack_mask(alive), rows, first_step=i == 0)
        given = {"blocks": blocks, "live_state": True, "steps": steps}
        masked_sgd_(live.parameters, live.gradients[i], compact, pack_mask(alive), rows, **given)
    assert_answers(dense, chosen, momentum, "cuda")
    assert all(torch.equal(p, q) for p, q in zip(dense.parameters, live.parameters, strict=True))
    assert torch.equal(live.expanded(compact.cpu())[alive.cpu()], momentum.cpu()[alive.cpu()])


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32 * 36, 10)
    )
    return layers.cuda().to(memory_format=torch.channels_last)


def sparse_mask(model: torch.nn.Module, density: float = 0.1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {n: torch.rand(p.shape, generator=generator) < density for n, p in model.named_parameters() if p.dim() > 1}


def give_gradients(model: torch.nn.Module, seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        gradient = torch.randn(p.shape, generator=generator) * scale
        if p.grad is None:
            p.grad = torch.empty_like(p)
        p.grad.copy_(gradient)


def weights(*models: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for model in models for p in model.parameters()]


def assert_same_bits(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert all(torch.equal(p, q) for p, q in zip(one, other, strict=True))


@pytest.mark.parametrize("live_momentum", [False, True])
def test_two_runs_give_the_same_bits(live_momentum):
    results = []
    for _ in range(2):
        model = network()
        optimizer = MaskedSGD(model.named_parameters(), mask=sparse_mask(model), live_momentum=live_momentum, **OPTIONS)
        for step in range(5):
            give_gradients(model, step)
            optimizer.step()
        results.append(weights(model))
    assert_same_bits(*results)


def test_live_momentum_shrinks_and_survives_a_new_mask_and_a_saved_state():
    models = [network(), network()]
    optimizers = [
        MaskedSGD(model.named_parameters(), mask=sparse_mask(model, 0.5), live_momentum=live, **OPTIONS)
        for model, live in zip(models, (False, True), strict=True)
    ]
    for step in range(6):
        for model, optimizer in zip(models, optimizers, strict=True):
            give_gradients(model, step)
            optimizer.step()
            if step == 2:
                optimizer.set_mask(sparse_mask(model, 0.1))
            if step == 4:
                optimizer.load_state_dict(optimizer.state_dict())
    assert_same_bits(weights(models[0]), weights(models[1]))
    dense, live = (optimizer.state[model[3].weight] for model, optimizer in zip(models, optimizers, strict=True))
    assert live["momentum_buffer"].numel() < 0.2 * dense["momentum_buffer"].numel()


def test_weights_in_new_memory_are_masked_in_the_next_step():
    model = network()
    mask = sparse_mask(model, 0.01)
    dense = [p.detach().clone() for p in model.parameters()]
    optimizer = MaskedSGD(model.named_parameters(), mask=mask, **OPTIONS)
    for step in range(2):
        give_gradients(model, step)
        optimizer.step()
        for name, p in model.named_parameters():
            assert name not in mask or not p.detach().cpu()[~mask[name]].any()
        for p, values in zip(model.parameters(), dense, strict=True):
            p.data = values


@pytest.mark.parametrize("live_momentum", [False, True])
def test_each_of_several_networks_gets_what_it_gets_alone(live_momentum):
    together, alone = ([network(seed) for seed in range(3)] for _ in range(2))
    masks = [sparse_mask(together[0]), None, sparse_mask(together[2], 0.5)]
    own = {"lr": [0.1, 0.05, 0.02], "momentum": [0.9, 0.5, 0.0]}
    optimizer = MaskedSGD.of_networks(together, masks, live_momentum=live_momentum, **own)
    single = [
        MaskedSGD(model.named_parameters(), lr=own["lr"][k], momentum=own["momentum"][k], mask=masks[k])
        for k, model in enumerate(alone)
    ]
    for step in range(4):
        for k in range(3):
            give_gradients(together[k], 10 * step + k)
            give_gradients(alone[k], 10 * step + k)
            single[k].step()
        optimizer.step()
    assert_same_bits(weights(*together), weights(*alone))


@pytest.mark.parametrize("live_momentum", [False, True])
def test_a_captured_step_follows_hyperparameters_on_the_device(live_momentum):
    keys, results = ("lr", "momentum", "dampening", "weight_decay"), []
    for captured in (False, True):
        model = network()
        values = {key: torch.tensor(OPTIONS[key], device="cuda") for key in keys}
        optimizer = MaskedSGD(model.named_parameters(), mask=sparse_mask(model), live_momentum=live_momentum, **values)
        give_gradients(model, 0)
        make_step = stepping(optimizer, captured)
        for step in range(5):
            give_gradients(model, step)
            for value in values.values():
                value.mul_(0.8)
            make_step()
        results.append(weights(model))
    assert_same_bits(*results)


@pytest.mark.parametrize("form", ["float", "tensor"])
def test_a_step_waits_for_nothing(form):
    model = network()
    options = {key: torch.tensor(value, device="cuda") if form == "tensor" else value for key, value in OPTIONS.items()}
    optimizer = MaskedSGD(model.named_parameters(), mask=sparse_mask(model), live_momentum=True, **options)
    give_gradients(model, 0)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.grad_scale, optimizer.found_inf = (torch.full((1,), number, device="cuda") for number in (2.0, 0.0))
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("skipped", [0, 2])
def test_scaled_gradients_and_skipped_steps(skipped):
    model, other = network(), network()
    one, two = (MaskedSGD(m.named_parameters(), mask=sparse_mask(m), **OPTIONS) for m in (model, other))
    scaler = torch.amp.GradScaler("cuda", init_scale=64.0)
    for step in range(4):
        for spoiled in (True, False) if step == skipped else (False,):
            scaler.scale(torch.ones((), device="cuda"))
            give_gradients(model, step, scaler.get_scale())
            if spoiled:
                model[0].bias.grad[0] = float("inf")
                before = weights(model)
            scaler.step(one)
            scaler.update()
            if spoiled:
                assert_same_bits(weights(model), before)
        give_gradients(other, step)
        two.step()
    assert_same_bits(weights(model), weights(other))


def test_a_skipped_first_step_is_no_part_of_the_saved_state():
    model = network()
    optimizer = MaskedSGD(model.named_parameters(), **OPTIONS)
    give_gradients(model, 0)
    optimizer.found_inf = torch.ones(1, device="cuda")
    optimizer.step()
    assert not optimizer.state_dict()["state"]
    del optimizer.found_inf
    optimizer.step()
    assert len(optimizer.state_dict()["state"]) == 4


def test_the_operator_passes_torchs_own_checks_on_the_device():
    live = torch.rand(2048, device="cuda") < 0.5
    blocks, places = block_table(live)
    required = [[torch.ones(5, device="cuda"), torch.ones(4, 3, device="cuda")] for _ in range(2)]
    required += [torch.zeros(places, device="cuda"), pack_mask(live), torch.tensor([Options().row()], device="cuda")]
    given = {"blocks": blocks, "live_state": True, "steps": torch.zeros(2, dtype=torch.int32, device="cuda")}
    given |= {"grad_scale": torch.ones((), device="cuda"), "found_inf": torch.zeros((), device="cuda")}
    torch.library.opcheck(
        torch.ops.sparselt.masked_sgd.default, (*required, [0, 1024], [0, 0], False, True), kwargs=given
    )
