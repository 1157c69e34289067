"""Each criterion against its paper's definition, computed another way; what it leaves alone; what it refuses."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from sparselt import Mask, magnitude_prune, prune
from sparselt.criteria import CRITERIA, Criterion, MaskedNetwork, find_criterion, grasp, random, snip, synflow
from sparselt.errors import CriterionError, MaskError, SettingError, TrainingError
from sparselt.models import build_model
from sparselt.pruning import empty_layers
from sparselt.scopes import SCOPES


def resnet8(seed: int = 0, trained: bool = False) -> nn.Module:
    model = build_model("resnet8", classes=10, channels=1, seed=seed)
    if trained:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for images, labels in data(seed=9) * 3:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model


def data(*sizes: int, seed: int = 0, shape=(1, 8, 8), dtype=torch.float32) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, *shape, generator=generator, dtype=dtype), torch.randint(0, 10, (n,), generator=generator))
        for n in sizes or (20, 12)
    ]


def initial() -> dict[str, torch.Tensor]:
    """Initial weights that the model may have had, for criteria that compare with them."""
    return dict(build_model("resnet8", classes=10, channels=1, seed=5).named_parameters())


def half(model: nn.Module) -> Mask:
    return magnitude_prune(model, Mask.ones_like(model), 0.5)


def mlp(*widths: int, seed: int = 0, dtype=torch.float64) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [[nn.Linear(a, b, bias=False, dtype=dtype), nn.ReLU()] for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*itertools.chain(*layers))[:-1]


@pytest.mark.parametrize("trained", [False, True])
def test_snip_is_the_gradient_in_a_multiplicative_mask_at_one(trained):
    model = resnet8(trained=trained).eval()
    mask, batches = half(model), data()
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    c = {name: layer.float().requires_grad_() for name, layer in mask.items()}
    fixed = {name: p.detach() for name, p in model.named_parameters()}
    loss = F.cross_entropy(functional_call(model, fixed | {n: fixed[n] * c[n] for n in c}, images), labels)
    sensitivity = dict(zip(c, torch.autograd.grad(loss, list(c.values())), strict=True))
    scores = snip(MaskedNetwork(model, mask, batches))
    for name, layer in mask.items():
        torch.testing.assert_close(scores[name][layer] / 32, sensitivity[name].abs()[layer], rtol=1e-3, atol=1e-7)


def live_gradient(model: nn.Module, mask: Mask, weights: dict, images, labels) -> dict[str, torch.Tensor]:
    """The gradient in the live weights of the loss at temperature 200, in whatever mode the model is."""
    weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    parameters = {name: p.detach() for name, p in model.named_parameters()} | weights
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    loss = F.cross_entropy(functional_call(model, parameters | buffers, images) / 200, labels)
    return {name: g * mask[name] for name, g in zip(weights, torch.autograd.grad(loss, weights.values()), strict=True)}


@pytest.mark.parametrize("trained", [False, True])
def test_grasp_is_the_change_of_the_gradient_along_itself_in_training_mode(trained):
    model = resnet8(trained=trained).double()
    mask, (batch,) = half(model), data(32, dtype=torch.float64)
    weights = {name: p.detach() * mask[name] for name, p in model.named_parameters() if name in mask}
    model.train()
    gradient = live_gradient(model, mask, weights, *batch)
    step = 1e-8 / max(g.abs().max() for g in gradient.values())  # so small that hardly any ReLU switches
    ahead, behind = (
        live_gradient(model, mask, {n: w + sign * step * gradient[n] for n, w in weights.items()}, *batch)
        for sign in (1, -1)
    )
    scores = grasp(MaskedNetwork(model.eval(), mask, [batch]))
    scale = max(score.abs().max() for score in scores.values())
    for name in mask:
        expected = weights[name] * (ahead[name] - behind[name]) / (2 * step) * 32**2
        torch.testing.assert_close(scores[name] / scale, expected / scale, rtol=0, atol=1e-5)


def test_grasp_of_a_network_without_batch_norm_does_not_depend_on_the_split_into_batches():
    model = mlp(6, 5, 10)
    batches, mask = data(9, 3, 8, shape=(6,), dtype=torch.float64), half(model)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    shapes = [layer.shape for layer in mask.values()]
    layers = torch.cat([layer.reshape(-1) for layer in mask.values()])

    def loss(flat):
        first, second = (part.view(s) for part, s in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True))
        return F.cross_entropy(torch.relu(images @ first.T) @ second.T / 200, labels)

    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()]) * layers
    gradient = torch.autograd.functional.jacobian(loss, flat) * layers
    expected = flat * torch.autograd.functional.hvp(loss, flat, gradient)[1]
    scores = torch.cat([s.reshape(-1) for s in grasp(MaskedNetwork(model, mask, batches)).values()])
    torch.testing.assert_close(scores / 20**2, expected)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(0, 2**31), st.booleans())
def test_synflow_is_the_sum_over_all_paths_through_a_weight_of_the_product_of_magnitudes(widths, seed, dense):
    model = mlp(*widths, seed=seed, dtype=torch.float32)
    mask = Mask.ones_like(model) if dense or widths == [1, 1] else half(model)
    weights = [p.detach().abs().double() * mask[name] for name, p in model.named_parameters()]
    expected = [torch.zeros_like(weight) for weight in weights]
    for path in itertools.product(*map(range, widths)):
        edges = list(itertools.pairwise(path))
        strength = 1.0
        for weight, (a, b) in zip(weights, edges, strict=True):
            strength *= weight[b, a].item()
        for total, (a, b) in zip(expected, edges, strict=True):
            total[b, a] += strength
    scores = synflow(MaskedNetwork(model, mask, [(torch.zeros(3, widths[0]), torch.zeros(3))]))
    for found, wanted in zip(scores.values(), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_synflow_is_conserved_from_layer_to_layer_through_trained_batch_norm():
    torch.manual_seed(0)
    model = nn.Sequential(
        *[nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False)],
        *[nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5, bias=False)],
    )
    for norm in (model[1], model[4]):
        nn.init.normal_(norm.weight)
        norm.running_mean.normal_(3)
        norm.running_var.uniform_(0.5, 2)
    images = torch.randn(2, 2, 8, 8)
    flows = torch.stack([s.sum() for s in synflow(MaskedNetwork(model, half(model), [(images, None)])).values()])
    torch.testing.assert_close(flows, flows[:1].expand(3))
    assert flows[0] > 0


def test_synflow_of_a_deep_network_stays_finite_where_float32_does_not():
    model = mlp(*[64] * 80, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    assert not torch.isfinite(model(torch.ones(1, 64))).all()
    pruned = prune(model, Mask.ones_like(model), 0.5, Criterion(synflow), batches=[(torch.ones(1, 64), None)])
    assert pruned.live == pruned.size // 2


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(2, 4), min_size=3, max_size=5), st.integers(0, 2**31), st.floats(0, 1))
def test_synflow_empties_no_layer_before_every_layer_is_down_to_one_weight(widths, seed, share):
    model = mlp(*widths, seed=seed, dtype=torch.float32)
    mask = Mask.ones_like(model)
    kept = len(mask) + int(share * (mask.size - len(mask) - 1))
    pruned = prune(model, mask, 1 - kept / mask.size, "synflow", batches=[(torch.ones(1, widths[0]), None)])
    assert pruned.live == kept and not empty_layers(pruned)


def test_synflow_in_one_round_does_empty_layers():
    model, once = mlp(20, 20, 2, 20, 20, dtype=torch.float32), Criterion(synflow, rounds=1)
    mask, batches = Mask.ones_like(model), [(torch.ones(1, 20), None)]
    assert empty_layers(prune(model, mask, 0.97, once, batches=batches))
    assert not empty_layers(prune(model, mask, 0.97, "synflow", batches=batches))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_criterion_magnitude_prunes_as_magnitude_prune_does(scope, dtype):
    model = resnet8().to(dtype)
    scores = find_criterion("magnitude").scores
    mask = half(model)
    expected = magnitude_prune(model, mask, 0.3, scope)
    assert prune(model, mask, 0.3, scope=scope) == expected
    # Through its scores instead of the kernel.
    assert prune(model, mask, 0.3, lambda network: scores(network), scope) == expected


def test_magnitudes_are_compared_in_float32_with_the_kernel_and_without():
    weights, scores = (
        {"w": torch.tensor([1 + 1e-12, 1.0, 2.0], dtype=torch.float64)},
        find_criterion("magnitude").scores,
    )
    mask = Mask({"w": torch.ones(3, dtype=torch.bool)})
    for criterion in ("magnitude", lambda network: scores(network)):
        assert prune(weights, mask, 0.3, criterion)["w"].tolist() == [False, True, True]


def test_a_criterion_computes_gradients_also_where_they_are_switched_off():
    model = resnet8()
    expected = prune(model, Mask.ones_like(model), 0.5, "snip", batches=data())
    with torch.no_grad():
        assert prune(model, Mask.ones_like(model), 0.5, "snip", batches=data()) == expected
    assert not any(score.requires_grad for score in snip(MaskedNetwork(model, expected, data())).values())


def test_magnitude_increase_keeps_the_weights_that_grew_most():
    initial, model = {n: p.detach().clone() for n, p in resnet8().named_parameters()}, resnet8(trained=True)
    mask = half(model)
    grown = torch.cat(
        [(p.detach().abs() - initial[n].abs())[mask[n]] for n, p in model.named_parameters() if n in mask]
    )
    kept = prune(model, mask, 0.4, "magnitude_increase", initial=initial)
    flags = torch.cat([kept[n][mask[n]] for n in mask])
    assert grown[flags].min() >= grown[~flags].max()
    with pytest.raises(SettingError, match="initial weights and got none"):
        prune(model, mask, 0.4, "magnitude_increase")
    with pytest.raises(SettingError, match="every live weight has its initial magnitude"):
        prune(model, mask, 0.4, "magnitude_increase", initial=model.state_dict())


def test_random_scores_depend_on_the_seed_and_the_layers_name_alone():
    model, other = resnet8(0), resnet8(1)
    first = random(MaskedNetwork(model, Mask.ones_like(model), seed=3))
    torch.rand(5)
    again = random(MaskedNetwork(other, half(other), seed=3))
    assert all(torch.equal(first[name], again[name]) for name in first)
    fresh = random(MaskedNetwork(model, Mask.ones_like(model), seed=4))
    assert not any(torch.equal(first[name], fresh[name]) for name in first)
    values = torch.cat([score.reshape(-1) for score in first.values()])
    assert abs(values.mean().item() - 0.5) < 0.02 and values.min() >= 0 and values.max() < 1


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_leaves_the_network_and_the_random_state_as_they_were(name, trained, scope):
    model, batches = resnet8(trained=trained), data()
    mask = half(model)
    first = next(iter(model.parameters()))
    first.requires_grad_(False)
    model.train()
    next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    list(model.parameters())[-1].grad = torch.ones_like(list(model.parameters())[-1])

    def state():
        return (
            {n: t.clone() for n, t in model.state_dict().items()},
            [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()],
            [m.training for m in model.modules()],
            torch.get_rng_state(),
        )

    before = state()
    pruned = prune(model, mask, 0.4, name, scope, batches=batches, initial=initial())
    torch.testing.assert_close(state(), before, rtol=0, atol=0)
    assert pruned & mask == pruned
    assert pruned.live == magnitude_prune(model, mask, 0.4, scope).live
    assert prune(model, mask, 0.4, name, scope, batches=batches, initial=initial()) == pruned


def test_criteria_of_a_small_resnet_choose_different_weights():
    model, batches = resnet8(), data()
    given = {"batches": batches, "initial": initial()}
    masks = {name: prune(model, Mask.ones_like(model), 0.8, name, **given) for name in CRITERIA}
    for a, b in itertools.combinations(masks.values(), 2):
        assert a.jaccard(b) < 0.9


def test_pruning_what_snip_scores_low_changes_the_loss_less_than_what_it_scores_high():
    model, batches = resnet8(trained=True).eval(), data(64)
    mask = Mask.ones_like(model)

    def change(criterion) -> float:
        pruned = copy.deepcopy(model)
        prune(model, mask, 0.1, criterion, batches=batches).apply_(pruned)
        (images, labels) = batches[0]
        return abs(F.cross_entropy(pruned(images), labels) - F.cross_entropy(model(images), labels)).item()

    assert change("snip") < 0.2 * change(lambda network: {n: -s for n, s in snip(network).items()})


@pytest.mark.parametrize("scope", SCOPES)
def test_rounds_follow_the_exponential_schedule_from_the_mask_given(scope):
    model, seen = resnet8(), []
    mask = half(model)

    def watched(network: MaskedNetwork):
        seen.append(network.mask)
        return {name: weight.abs() for name, weight in network.weights.items()}

    seen.append(prune(model, mask, 0.75, Criterion(watched, rounds=4), scope))
    assert seen[0] == mask and all(b & a == b for a, b in itertools.pairwise(seen))
    assert [m.live / mask.live for m in seen] == pytest.approx([0.25 ** (k / 4) for k in range(5)], abs=1e-3)
    assert seen[-1].live == magnitude_prune(model, mask, 0.75, scope).live


def test_a_users_function_gets_labelled_samples_its_loss_and_seeded_random_numbers():
    model, batches = resnet8(), data()

    def noisy(network: MaskedNetwork):
        count = sum(len(labels) for _, labels in network.samples())
        assert count == 32 and network.loss(torch.ones(2, 3), None) == 6
        return {name: torch.rand_like(weight) for name, weight in network.weights.items()}

    pruned = [
        prune(
            model, Mask.ones_like(model), 0.5, noisy, batches=batches, seed=seed, loss=lambda outputs, _: outputs.sum()
        )
        for seed in (1, 1, 2)
    ]
    assert pruned[0] == pruned[1] != pruned[2]


def test_dropout_and_an_auxiliary_classifier_are_scored_alike_for_equal_seeds():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.side = nn.Linear(6, 8), nn.Linear(8, 10), nn.Linear(8, 10)

        def forward(self, x):
            x = F.dropout(self.body(x).relu(), training=self.training)
            return (self.head(x), self.side(x)) if self.training else self.head(x)

    def loss(outputs, labels):
        return sum(F.cross_entropy(o, labels) for o in ([outputs] if isinstance(outputs, torch.Tensor) else outputs))

    model = Auxiliary()
    arguments = {"batches": data(shape=(6,)), "loss": loss}
    first, again, other = (
        prune(model, Mask.ones_like(model), 0.5, "grasp", seed=seed, **arguments) for seed in (0, 0, 1)
    )
    assert first == again != other
    # In eval mode the loss does not depend on the auxiliary classifier, so SNIP scores it 0 and it goes first.
    assert empty_layers(prune(model, Mask.ones_like(model), 0.5, "snip", **arguments)) == ["side.weight"]


@pytest.mark.parametrize("name", ["magnitude", "random"])
def test_criteria_that_need_weights_alone_take_a_checkpoint(name):
    model = resnet8()
    mask = half(model)
    assert prune(model.state_dict(), dict(mask), 0.2, name) == prune(model, mask, 0.2, name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"criterion": "fisher"},
            f"criterion is 'fisher'; expected one of {', '.join(CRITERIA)}",
        ),
        ({"criterion": 3}, "criterion is a int; expected one of"),
        ({"criterion": "snip", "batches": None}, "needs data and got none"),
        ({"criterion": "synflow", "batches": []}, "shape of an image and got no batch"),
        ({"criterion": "snip", "batches": [(torch.ones(0, 4), torch.ones(0))]}, "no batch holds a sample"),
        ({"criterion": "grasp", "batches": iter(data(shape=(4,)))}, "can be read again, not an iterator"),
        ({"criterion": "snip", "model": {"weight": torch.ones(10, 4)}}, r"runs the network.* give a torch\.nn\.Module"),
        ({"criterion": "snip", "fraction": 1.0}, "between 0 and 1"),
        ({"criterion": "snip", "scope": "filter"}, "scope is 'filter'"),
        ({"criterion": "snip", "mask": Mask({"weight": torch.zeros(10, 4) > 0})}, "no weight is left"),
    ],
)
def test_what_a_criterion_cannot_work_with_is_refused(change, message):
    model = nn.Linear(4, 10)
    arguments = {"model": model, "mask": Mask.ones_like(model), "fraction": 0.5, "batches": data(shape=(4,))}
    with pytest.raises(SettingError, match=message):
        prune(**arguments | change)


@pytest.mark.parametrize("scores", [None, 3])
def test_a_criterion_without_a_function_or_rounds_is_refused(scores):
    with pytest.raises(SettingError, match="expected a function"):
        Criterion(scores)
    with pytest.raises(SettingError, match="rounds is 0; expected 1 or more"):
        Criterion(snip, rounds=0)


def test_a_mask_of_another_model_and_a_diverged_weight_are_named():
    model = nn.Linear(4, 2)
    with pytest.raises(MaskError, match=r"'0\.weight'"):
        prune(model, Mask({"0.weight": torch.ones(2, 4) > 0}), 0.5, "random")
    model.weight.data[0, 1] = torch.nan
    with pytest.raises(TrainingError, match="'weight'"):
        prune(model, Mask.ones_like(model), 0.5, "random")


WEIGHTS = {"a": torch.ones(3, 2), "b": torch.ones(2, 2)}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([], "criterion 'mine': got a list; expected score tensors by layer name"),
        (None, "got a NoneType"),
        ({"a": WEIGHTS["a"]}, "no scores for layer 'b'; expected exactly the mask's layers, a, b"),
        (WEIGHTS | {"c": torch.ones(1)}, "scores for an unknown layer 'c'"),
        (WEIGHTS | {"b": 1.0}, "the scores of layer 'b' are a float; expected a tensor"),
        (WEIGHTS | {"b": torch.ones(2, 3)}, r"'b' have shape \(2, 3\); expected its weight's, \(2, 2\)"),
        (WEIGHTS | {"b": torch.ones(2, 2, dtype=torch.int64)}, "'b' are torch.int64; expected a floating-point dtype"),
        (WEIGHTS | {"b": torch.ones(2, 2, dtype=torch.complex64)}, "'b' are torch.complex64"),
        (WEIGHTS | {"a": torch.ones(3, 2, device="meta")}, "'a' are on meta; expected them on cpu"),
        (WEIGHTS | {"b": torch.tensor([[1, torch.nan], [2, 3]])}, "'b' are NaN or infinite for 1 live weights"),
        (WEIGHTS | {"b": torch.full((2, 2), torch.inf)}, "'b' are NaN or infinite for 3 live weights"),
    ],
)
def test_scores_that_cannot_be_used_are_named_with_what_was_expected(returned, message):
    mask = Mask({"a": torch.ones(3, 2) > 0, "b": torch.tensor([[True, True], [True, False]])})

    def mine(network):
        return returned

    with pytest.raises(CriterionError, match=message):
        prune(WEIGHTS, mask, 0.5, mine)


def test_the_scores_of_pruned_weights_may_be_anything():
    mask = Mask({"a": torch.ones(3, 2) > 0, "b": torch.tensor([[True, True], [True, False]])})
    scores = WEIGHTS | {"b": torch.tensor([[1, 2], [3, torch.nan]])}
    assert prune(WEIGHTS, mask, 0.5, lambda network: scores).live == 4


@pytest.mark.parametrize(
    ("batches", "found"),
    [
        (data(8)[0], "batch 0 is a Tensor"),
        ([{"images": data(8)[0][0]}], "batch 0 is a dict"),
        ([*data(8), (data(8)[0][0],)], "batch 1 is a tuple"),
        ([5], "batch 0 is a int"),
    ],
)
def test_batches_that_are_not_images_and_labels_are_refused(batches, found):
    model = resnet8()
    with pytest.raises(SettingError, match=rf"batches: {found}; expected \(images, labels, …\) of tensors"):
        prune(model, Mask.ones_like(model), 0.5, "snip", batches=batches)
    if found.startswith("batch 0"):
        with pytest.raises(SettingError, match=rf"batches: {found}; expected \(images, …\) of tensors"):
            prune(model, Mask.ones_like(model), 0.5, "synflow", batches=batches)
