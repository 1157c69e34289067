"""evaluate_path and evaluate_plane on a small network with batch normalization against each point alone."""

import copy

import pytest
import torch
from torch import nn

from sparselt import kernels
from sparselt.analysis import between, evaluate_path, evaluate_plane, side_by_side
from sparselt.data import Batch
from sparselt.errors import SettingError
from sparselt.kernels.interpolate import gram_matrix, project_to_hull
from sparselt.models import build_model
from sparselt.training.loop import evaluate
from sparselt.weights import prunable_parameters

POSITIONS = (0.0, 0.3, 0.75, 1.0)
PLANE = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.2, 0.5], [-0.3, 0.4], [1.2, -0.4], [0.8, 0.9]])
PRUNABLE = {"0.weight", "5.weight"}


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)]
    model = nn.Sequential(*layers)
    model[1].weight.data.uniform_(0.5, 2)
    model[1].bias.data.normal_()
    for batch in batches(2 + seed):
        model(batch.images)
    return model.eval()


def batches(seed: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    sizes = (20, 20, 7)
    images = [torch.randn(n, 1, 6, 6, generator=generator) * (1 + seed % 3) for n in sizes]
    return [Batch(i, torch.randint(0, 3, (len(i),), generator=generator), torch.arange(len(i))) for i in images]


@pytest.fixture(scope="module")
def states() -> list[dict[str, torch.Tensor]]:
    return [network(seed).state_dict() for seed in range(3)]


def direct(states, point, hull, buffers: str) -> tuple[float, float]:
    """Error and loss of one network, made tensor by tensor in float64. point, hull: a coefficient an other end."""
    model, ends = network(0), dict(zip(("first", "second", "third"), states, strict=False))
    state = {}
    for name, a in states[0].items():
        if not a.is_floating_point() or ("running" in name and buffers != "interpolate"):
            state[name] = ends.get(buffers, states[0])[name]
            continue
        shares = point if name in PRUNABLE else hull
        steps = (float(s) * (end[name].double() - a.double()) for s, end in zip(shares, states[1:], strict=True))
        state[name] = (a.double() + sum(steps)).float()
    model.load_state_dict(state)
    if buffers == "reestimate":
        images = [batch.images for batch in batches(9)]
        outputs = [model[0](i).detach().transpose(0, 1).flatten(1) for i in images]
        model[1].running_mean = torch.stack([o.mean(1) for o in outputs]).mean(0)
        model[1].running_var = torch.stack([o.var(1) for o in outputs]).mean(0)
    return evaluate(model, batches(8))


@pytest.mark.parametrize("buffers", ["interpolate", "first", "second", "reestimate"])
def test_a_path_is_that_of_its_networks_with_the_buffers_chosen(states, buffers):
    model = network(0).train()
    path = evaluate_path(
        model, *states[:2], batches(8), POSITIONS, buffers=buffers, training_batches=batches(9), on_point=lambda _: None
    )
    answers = [direct(states[:2], [p], [p], buffers) for p in POSITIONS]
    assert path.errors == tuple(error for error, _ in answers)
    assert path.losses == pytest.approx([loss for _, loss in answers], rel=1e-5)
    assert path.positions == POSITIONS and path.buffers == buffers
    assert all(module.training for module in model.modules()) and model[1].momentum == 0.1


def test_choices_of_buffers_differ(states):
    paths = [
        evaluate_path(network(0), *states[:2], batches(8), (0.5,), buffers=buffers, training_batches=batches(9))
        for buffers in ("interpolate", "first", "second", "reestimate")
    ]
    assert len({path.losses for path in paths}) == 4


def test_beyond_an_end_of_a_path_only_prunable_parameters_go_on(states):
    path = evaluate_path(network(0), *states[:2], batches(8), (-0.5, 1.5))
    answers = [direct(states[:2], [p], [min(max(p, 0), 1)], "interpolate") for p in (-0.5, 1.5)]
    assert path.losses == pytest.approx([loss for _, loss in answers], rel=1e-5)
    everything = evaluate_path(network(0), *states[:2], batches(8), (-0.5,), prunable=[])
    assert everything.losses[0] == pytest.approx(evaluate_path(network(0), *states[:2], batches(8), (0.0,)).losses[0])


@pytest.mark.parametrize("buffers", ["interpolate", "third", "reestimate"])
def test_a_plane_is_that_of_its_networks_inside_and_outside_the_triangle(states, buffers):
    weights = [[tensor for name, tensor in state.items() if name.endswith(("weight", "bias"))] for state in states]
    hull = project_to_hull(PLANE, gram_matrix([[t.double() for t in end] for end in weights]))
    done = []
    plane = evaluate_plane(
        network(0), *states, batches(8), PLANE, buffers=buffers, training_batches=batches(9), on_point=done.append
    )
    answers = [direct(states, p, h, buffers) for p, h in zip(PLANE, hull, strict=True)]
    assert plane.losses == pytest.approx([loss for _, loss in answers], rel=1e-4)
    assert plane.errors == pytest.approx([error for error, _ in answers], abs=0.03)
    assert done == sorted(done) and done[-1] == len(PLANE) and set(done) >= set(range(1, len(PLANE)))
    assert plane.buffers == buffers
    torch.testing.assert_close(torch.tensor(plane.coefficients), PLANE)


def test_corners_of_a_plane_and_ends_of_a_path_are_the_networks_to_the_bit(states):
    plane = evaluate_plane(network(0), *states, batches(8), [(0, 0), (1, 0), (0, 1)], folded=False)
    path = evaluate_path(network(0), *states[:2], batches(8), (0, 1), folded=False)
    alone = []
    for state in states:
        model = network(0)
        model.load_state_dict(state)
        alone.append(evaluate(model, batches(8))[1])
    assert plane.losses == tuple(alone) and path.losses == tuple(alone[:2])


def test_a_path_is_evaluate_s_to_the_bit_in_any_memory_layout_of_the_ends():
    """Weights from files are NCHW, the networks channels-last: the kernels, and so the bits, follow the network."""
    images = torch.randn(50, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    data = [Batch(images.contiguous(memory_format=torch.channels_last), torch.arange(50) % 10, torch.arange(50))]
    models = [build_model("resnet20", classes=10, channels=3, seed=seed, norm_scale="uniform") for seed in (0, 1)]
    states = [{name: t.contiguous().clone() for name, t in model.state_dict().items()} for model in models]
    path = evaluate_path(models[0].train(), *states, data, (0, 0.4, 1), folded=False)
    alone = []
    for position in (0, 0.4, 1):
        state = {
            name: between_two(a, b, position) if a.is_floating_point() else a
            for (name, a), b in zip(states[0].items(), states[1].values(), strict=True)
        }
        models[1].load_state_dict(state)
        alone.append(evaluate(models[1], data)[1])
    assert path.losses == tuple(alone)
    assert models[0].training and all(torch.equal(t, states[0][n]) for n, t in models[0].state_dict().items())


def between_two(first, second, position: float) -> torch.Tensor:
    return kernels.interpolate([first, second], torch.tensor([position], dtype=torch.float64))[0]


def test_per_batch_normalizes_each_batch_with_its_own_statistics(states):
    model = network(0)
    model.load_state_dict(states[1])
    model[1].train()
    with torch.no_grad():
        outputs = [model(batch.images) for batch in batches(8)]
    labels = [batch.labels for batch in batches(8)]
    expected = nn.functional.cross_entropy(torch.cat(outputs), torch.cat(labels))
    path = evaluate_path(network(0), *states[:2], batches(8), (0, 0.5, 1), buffers="per_batch")
    assert path.losses[-1] == pytest.approx(expected.item(), rel=1e-5)
    whole = [Batch(*(torch.cat(parts) for parts in zip(*batches(8), strict=True)))]
    other = evaluate_path(network(0), *states[:2], whole, (0, 0.5, 1), buffers="per_batch")
    assert other.losses != pytest.approx(path.losses, rel=1e-3)  # another batch size, another result


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_pieces_for_the_caches_change_nothing_but_rounding(states, monkeypatch, precision):
    def path():
        return evaluate_path(network(0), *states[:2], batches(8), POSITIONS, precision=precision)

    whole = path()
    monkeypatch.setattr(side_by_side, "PIECE_BYTES", 1)  # 8 images
    assert path().losses == pytest.approx(whole.losses, rel=1e-5)
    assert path().errors == whole.errors


def test_the_memory_for_weight_sets_changes_nothing(states, monkeypatch):
    plane = evaluate_plane(network(0), *states, batches(8), PLANE)
    monkeypatch.setattr(between, "CHUNK_BYTES", 1)
    assert evaluate_plane(network(0), *states, batches(8), PLANE) == plane


def test_a_shared_weight_extrapolates_under_both_of_its_names():
    def tied(weight: float) -> nn.Module:
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.Linear(36, 36))
        model[1].weight.data.fill_(weight)
        model[1].bias.data.zero_()
        model[2].bias.data.zero_()
        model[2].weight = model[1].weight
        return model

    path = evaluate_path(tied(0.0), tied(0.0).state_dict(), tied(0.1).state_dict(), batches(8), (2.0,), buffers="first")
    assert path.losses[0] == pytest.approx(evaluate(tied(0.2), batches(8))[1], rel=1e-5)


def damaged(state: dict, name: str, change) -> dict:
    return {**copy.deepcopy(state), name: change(state[name])}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            None,
            {"buffers": "average"},
            "buffers is 'average'; expected one of 'interpolate', 'first', 'second', 'reest",
        ),
        (None, {"buffers": "third"}, "buffers is 'third'"),
        (None, {"buffers": "reestimate"}, "needs training_batches"),
        (None, {"buffers": "reestimate", "training_batches": iter(())}, "no batch"),
        (None, {"prunable": ["0.weight", "w"]}, "prunable name 'w'"),
        (lambda state: {n: t for n, t in state.items() if n != "5.bias"}, {}, "second network lacks '5.bias'"),
        (lambda state: {**state, "x": torch.ones(1)}, {}, "second network has 'x', which the model lacks"),
        (
            lambda state: damaged(state, "5.bias", lambda t: t[:1]),
            {},
            r"'5.bias' of the second network has shape \(1,\)",
        ),
        (lambda state: damaged(state, "5.bias", torch.Tensor.double), {}, "'5.bias' of the second network is torch.fl"),
        (lambda state: damaged(state, "5.bias", lambda t: t.to("meta")), {}, "on meta, of the first"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_the_model_changes(states, change, options, message):
    model, second = network(0), states[1] if change is None else change(states[1])
    with pytest.raises(SettingError, match=message):
        evaluate_path(model, states[0], second, batches(8), POSITIONS, **options)
    if options.get("training_batches") is None:
        assert all(torch.equal(t, states[0][n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("coefficients", [[0.5, 1.0], [(0, 0, 0)], torch.zeros(2, 3, 2)])
def test_coefficients_of_a_plane_come_in_pairs(states, coefficients):
    with pytest.raises(SettingError, match=r"expected \[K, 2\]"):
        evaluate_plane(network(0), *states, batches(8), coefficients)


@pytest.mark.parametrize("points", [[(0, float("nan"))], [(float("inf"), 0)]])
def test_points_that_are_nowhere_are_refused(states, points):
    with pytest.raises(SettingError, match="not finite"):
        evaluate_plane(network(0), *states, batches(8), points)
    with pytest.raises(SettingError, match="not finite"):
        evaluate_path(network(0), *states[:2], batches(8), [sum(points[0])])


def test_a_name_is_no_collection_of_names(states):
    with pytest.raises(SettingError, match=r"prunable is '0\.weight'; expected names"):
        evaluate_path(network(0), *states[:2], batches(8), POSITIONS, prunable="0.weight")


def test_prunable_names_may_come_once_or_as_pairs_and_extrapolate(states):
    def errors(prunable):
        path = evaluate_path(network(0), states[0], states[1], batches(9), (0.0, 1.7), prunable=prunable)
        return path.errors, path.losses

    expected = errors(sorted(PRUNABLE))
    assert expected != errors([])
    assert errors(name for name in sorted(PRUNABLE)) == expected
    assert errors(prunable_parameters(network(0))) == expected
    with pytest.raises(SettingError, match="prunable holds a Parameter; expected names") as refused:
        errors(network(0).parameters())
    assert len(str(refused.value)) < 100


def test_a_model_in_place_of_a_state_dict_is_told_what_to_give(states):
    with pytest.raises(SettingError, match=r"second network are a Sequential; .*model\.state_dict"):
        evaluate_path(network(0), states[0], network(1), batches(9), POSITIONS)
