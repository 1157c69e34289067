"""The adaptive search against every network evaluated alone, in float64, with torch's own operations."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sparselt import Mask, magnitude_prune
from sparselt.analysis import (
    AdaptiveSearch,
    TrainThreshold,
    adaptive,
    adaptive_fraction,
    dense_threshold,
    evaluate_path,
    subsample_indices,
)
from sparselt.data import Batch
from sparselt.errors import MaskError, SettingError, TrainingError
from sparselt.training.recipe import Techniques
from sparselt.training.techniques import smoothed_bce

quick = settings(max_examples=40, deadline=None, derandomize=True)

FRACTIONS = (0.1, 0.3, 0.5, 0.9)
POSITIONS = (0.0, 0.4, 0.75, 1.0)
PRUNABLE = ("0.weight", "4.weight")


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    model[1].weight.data.uniform_(0.5, 2)
    for batch in batches(2):
        model(batch.images)
    return model.eval()


def batches(seed: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(n, 1, 6, 6, generator=generator) for n in (20, 20, 7)]
    return [Batch(i, torch.randint(0, 3, (len(i),), generator=generator), torch.arange(len(i))) for i in images]


def ticket() -> tuple[dict[str, torch.Tensor], Mask]:
    """A solution some way up the levels: its weights, already masked, and its mask."""
    model = network(0)
    mask = Mask.random_like(magnitude_prune(model, Mask.ones_like(model), 0.2, "layerwise"), seed=1)
    mask.apply_(model)
    return model.state_dict(), mask


def smallest(state, mask: Mask, fraction: float, scope: str) -> dict[str, torch.Tensor]:
    """True for the weights that pruning takes: the smallest of the live ones by a full sort."""
    groups = [[name] for name in PRUNABLE] if scope == "layerwise" else [PRUNABLE]
    taken = {name: torch.zeros_like(mask[name]) for name in PRUNABLE}
    for group in groups:
        live = [
            (abs(float(state[name].flatten()[place])), name, place)
            for name in group
            for place in mask[name].flatten().nonzero().flatten().tolist()
        ]
        for _, name, place in sorted(live)[: math.ceil(round(fraction * len(live), 6))]:
            taken[name].view(-1)[place] = True
    return taken


def loss_alone(state, data: list[Batch], loss=F.cross_entropy) -> float:
    model = network(0).double()
    model.load_state_dict(state)
    with torch.no_grad():
        outputs = model(torch.cat([batch.images for batch in data]).double())
    return float(loss(outputs, torch.cat([batch.labels for batch in data])))


@pytest.fixture(scope="module")
def search() -> AdaptiveSearch:
    state, mask = ticket()
    return adaptive_fraction(network(1), state, mask, batches(8), 1.0, fractions=FRACTIONS, positions=POSITIONS)


@pytest.mark.parametrize("scope", ["global", "layerwise"])
@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_losses_are_those_of_every_network_alone(scope, loss):
    state, mask = ticket()
    found = adaptive_fraction(
        network(1),
        state,
        mask,
        iter(batches(8)),  # which can be gone through once only
        1.0,
        fractions=FRACTIONS,
        positions=POSITIONS,
        scope=scope,
        techniques=Techniques(bce=loss == "bce"),
    )
    for fraction, losses in zip(FRACTIONS, found.losses, strict=True):
        taken = smallest(state, mask, fraction, scope)
        for position, value in zip(POSITIONS, losses, strict=True):
            there = {
                name: tensor.double() * torch.where(taken[name], 1 - position, 1) if name in taken else tensor
                for name, tensor in state.items()
            }
            expected = loss_alone(there, batches(8), smoothed_bce if loss == "bce" else F.cross_entropy)
            assert value == pytest.approx(expected, rel=1e-5), (fraction, position)


@quick
@given(st.floats(0.5, 3))
def test_the_largest_fraction_is_the_last_whose_whole_path_is_below(search, threshold):
    found = dataclasses.replace(search, threshold=threshold)
    fitting = [p for p, losses in zip(FRACTIONS, search.losses, strict=True) if max(losses) < threshold]
    assert found.largest == (fitting[-1] if fitting else None)
    assert found.fraction == max([*fitting, 0.2])


def test_thresholds_at_a_path_s_own_maximum_decide_strictly(search):
    for place, losses in enumerate(search.losses):
        worst = max(losses)
        above = dataclasses.replace(search, threshold=math.nextafter(worst, math.inf))
        assert above.largest >= FRACTIONS[place]
        assert dataclasses.replace(search, threshold=worst).largest != FRACTIONS[place]


loss_values = st.one_of(st.floats(0, 2), st.just(math.nan), st.just(math.inf))
tables = st.lists(st.tuples(loss_values, loss_values, loss_values), min_size=3, max_size=3)


@quick
@given(tables, st.floats(0, 2), st.floats(0, 2))
def test_a_higher_threshold_never_prunes_less_and_nan_is_never_below(table, one, other):
    def made(threshold):
        return AdaptiveSearch((0.1, 0.2, 0.7), (0, 0.5, 1), tuple(table), threshold)

    low, high = made(min(one, other)), made(max(one, other))
    assert (low.largest or 0) <= (high.largest or 0) and 0.2 <= low.fraction <= high.fraction
    for fraction, losses in zip(low.fractions, table, strict=True):
        if not all(map(math.isfinite, losses)):
            assert high.largest != fraction


def test_a_fraction_counts_even_if_a_smaller_one_fails():
    found = AdaptiveSearch((0.1, 0.2, 0.3), (0, 1), ((0.1, 0.9), (0.1, 0.9), (0.1, 0.2)), 0.5)
    assert (found.largest, found.fraction, found.note) == (0.3, 0.3, "")


def test_twenty_percent_and_a_note_where_no_path_stays_below(search):
    none = dataclasses.replace(search, threshold=0.0)
    assert none.largest is None and none.fraction == 0.2
    assert "none of 4 fractions" in none.note and "0.2, is pruned" in none.note
    little = AdaptiveSearch((0.1, 0.2), (0, 1), ((0.1, 0.2), (0.1, 0.9)), 0.5)
    assert (little.largest, little.fraction) == (0.1, 0.2) and "no more than 0.1" in little.note
    assert dataclasses.replace(little, minimum=0.05).fraction == 0.1
    assert dataclasses.replace(little, minimum=0.05).note == ""


def test_memory_for_weight_sets_changes_nothing(search, monkeypatch):
    monkeypatch.setattr(adaptive, "_CHUNK_BYTES", 1)
    state, mask = ticket()
    again = adaptive_fraction(network(1), state, mask, batches(8), 1.0, fractions=FRACTIONS, positions=POSITIONS)
    assert again == search


def test_paths_are_those_of_evaluate_path():
    state, mask = ticket()
    found = adaptive_fraction(network(1), state, mask, batches(8), 1.0, fractions=(0.3, 0.6), positions=POSITIONS)
    for fraction, losses in zip((0.3, 0.6), found.losses, strict=True):
        kept = magnitude_prune(state, mask, fraction)
        projection = {name: tensor * kept[name] if name in kept else tensor for name, tensor in state.items()}
        path = evaluate_path(network(1), state, projection, batches(8), POSITIONS)
        assert losses == pytest.approx(path.losses, rel=1e-5)


def test_a_weight_that_two_layers_share_moves_under_both_of_its_names():
    def tied() -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.Linear(36, 36))
        model[2].weight = model[1].weight
        return model

    model = tied()
    mask = Mask.ones_like(model)
    found = adaptive_fraction(tied(), model.state_dict(), mask, batches(8), 1.0, fractions=(0.6,), positions=(0.0, 1.0))
    magnitude_prune(model, mask, 0.6).apply_(model)
    with torch.no_grad():
        outputs = model(torch.cat([batch.images for batch in batches(8)]))
    expected = F.cross_entropy(outputs, torch.cat([batch.labels for batch in batches(8)]))
    assert found.losses[0][1] == pytest.approx(float(expected), rel=1e-5)


def test_the_threshold_at_rest_is_mean_and_spread_of_the_batches():
    state, _ = ticket()
    found = dense_threshold(network(1), state, batches(8))
    assert found.loss == pytest.approx(loss_alone(state, batches(8)), rel=1e-5)
    each = [loss_alone(state, [batch]) for batch in batches(8)]
    assert found.epsilon == pytest.approx(np.std(each, ddof=1), rel=1e-4)
    assert found.value == found.loss + found.epsilon == TrainThreshold(found.loss, found.epsilon).value
    with pytest.raises(SettingError, match="at least 2 of them, got 1"):
        dense_threshold(network(1), state, batches(8)[:1])


@quick
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 5))
def test_a_smaller_subsample_is_part_of_a_larger_one(one, other, seed):
    small, large = sorted((one, other))
    of_small, of_large = subsample_indices(60, small, seed), subsample_indices(60, large, seed)
    assert len(set(of_small.tolist())) == small and set(of_small.tolist()) <= set(of_large.tolist())
    assert (np.diff(of_large) > 0).all() and of_large[0] >= 0 and of_large[-1] < 60


def test_subsamples_differ_by_seed_and_none_is_everything():
    assert subsample_indices(5, None, 0).tolist() == [0, 1, 2, 3, 4]
    draws = {tuple(subsample_indices(100, 10, seed)) for seed in range(4)}
    assert len(draws) == 4 and tuple(subsample_indices(100, 10, 3)) in draws
    for size in (0, 6):
        with pytest.raises(SettingError, match=f"subsample of {size} of 5"):
            subsample_indices(5, size, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": ()}, "fractions to try"),
        ({"fractions": (0.2, 0.1)}, "fractions to try"),
        ({"fractions": (0.2, 1.0)}, "pruning fraction is 1.0"),
        ({"minimum": 0}, "pruning fraction is 0"),
        ({"positions": (0.0, 0.5)}, "path positions"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"threshold": 0.0}, "threshold is 0.0"),
        ({"threshold": -1.0}, "threshold is -1.0"),
        ({"precision": "float16"}, "precision is 'float16'"),
        ({"batches": []}, "no batch"),
        ({"batches": [(torch.zeros(0, 1, 6, 6), torch.zeros(0, dtype=torch.long))]}, "no batch"),
        ({"scope": "local"}, "scope is 'local'"),
    ],
)
def test_what_cannot_be_searched_is_refused(options, message):
    state, mask = ticket()
    arguments = {"model": network(1), "weights": state, "mask": mask, "batches": batches(8), "threshold": 1.0}
    with pytest.raises(SettingError, match=message):
        adaptive_fraction(**(arguments | options))


def test_weights_that_do_not_fit_are_refused_by_name():
    state, mask = ticket()
    short = {name: tensor for name, tensor in state.items() if name != "4.bias"}
    with pytest.raises(SettingError, match=r"the network lacks '4\.bias'"):
        adaptive_fraction(network(1), short, mask, batches(8), 1.0)
    with pytest.raises(SettingError, match=r"'4\.bias' of the network has shape \(1,\), of the model \(3,\)"):
        dense_threshold(network(1), state | {"4.bias": torch.zeros(1)}, batches(8))
    with pytest.raises(MaskError, match="'w'"):
        adaptive_fraction(network(1), state, Mask({"w": torch.ones(2, dtype=torch.bool)}), batches(8), 1.0)
    broken = state | {"4.weight": torch.full((3, 64), math.nan)}
    with pytest.raises(TrainingError, match=r"'4\.weight'"):
        adaptive_fraction(network(1), broken, mask, batches(8), 1.0)


def empty() -> Batch:
    return Batch(torch.zeros(0, 1, 6, 6), torch.zeros(0, dtype=torch.long), torch.arange(0))


def test_empty_batches_are_skipped(search):
    state, mask = ticket()
    data = [empty(), *batches(8), empty()]
    assert search == adaptive_fraction(network(1), state, mask, data, 1.0, fractions=FRACTIONS, positions=POSITIONS)
    assert dense_threshold(network(1), state, data) == dense_threshold(network(1), state, batches(8))
    with pytest.raises(SettingError, match="at least 2 of them, got 1"):
        dense_threshold(network(1), state, [batches(8)[0], empty()])


def test_a_network_that_cannot_be_traced_is_searched_as_it_is():
    class Centred(nn.Sequential):
        def forward(self, images):
            return super().forward(images - torch.tensor([0.1]))

    state, mask = ticket()
    moved = [batch._replace(images=batch.images + 0.1) for batch in batches(8)]
    found = [
        adaptive_fraction(model, state, mask, data, 1.0, fractions=(0.3,), positions=(0.0, 1.0)).losses[0]
        for model, data in ((network(1), batches(8)), (Centred(*network(1)), moved))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_threshold_a_grid_of_numpy_and_a_plain_mask_serve_as_they_come():
    state, mask = ticket()
    threshold = TrainThreshold(5.0, 0.5)
    expected = adaptive_fraction(network(0), state, mask, batches(3), 5.5, fractions=FRACTIONS, positions=POSITIONS)
    found = adaptive_fraction(
        *(network(0), state, dict(mask), batches(3), threshold),
        fractions=np.array(FRACTIONS),
        positions=torch.tensor(POSITIONS, dtype=torch.float64),
    )
    assert found == expected and found.threshold == 5.5
    assert {type(number) for number in (*found.fractions, *found.positions)} == {float}


def test_a_network_whose_own_loss_is_no_number_is_said_to_have_diverged():
    state, mask = ticket()
    state = dict(state) | {"4.bias": torch.full_like(state["4.bias"], math.nan)}
    found = adaptive_fraction(network(0), state, mask, batches(3), 5.5, fractions=FRACTIONS, positions=POSITIONS)
    assert found.note == "the network's own training loss is nan: its training diverged; the minimum, 0.2, is pruned"


def test_a_model_in_place_of_its_weights_and_a_text_as_threshold_are_refused():
    state, mask = ticket()
    with pytest.raises(SettingError, match=r"give model\.state_dict\(\)"):
        adaptive_fraction(network(0), network(0), mask, batches(3), 5.5)
    with pytest.raises(SettingError, match="the threshold is '5'; expected a loss"):
        adaptive_fraction(network(0), state, mask, batches(3), "5")
