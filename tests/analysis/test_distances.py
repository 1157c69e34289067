import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselt import Mask
from sparselt.analysis.distances import angle, angular_distance, angular_distance_matrix, l2_distance
from sparselt.errors import MaskError, SettingError

SHAPES = {"a": (4, 3), "b": (2, 2, 2), "c": (5,)}


def drawn(seed: int) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return {name: torch.from_numpy(rng.normal(size=shape)).float() for name, shape in SHAPES.items()}


def mask_of(seed: int, density: float = 0.7) -> Mask:
    rng = np.random.default_rng(seed)
    layers = {name: torch.from_numpy(rng.random(shape) < density) for name, shape in SHAPES.items()}
    layers["a"][0, :2] = True
    return Mask(layers)


def flat(state, mask: Mask) -> np.ndarray:
    return np.concatenate([(state[name].double() * mask[name]).numpy().ravel() for name in SHAPES])


def vector(*values) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(values)}


ALL = Mask({"w": torch.ones(2, dtype=torch.bool)})


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_distance_and_angle_are_those_of_the_masked_weights_as_one_vector(seed):
    first, second, mask = drawn(seed), drawn(seed + 1), mask_of(seed)
    u, v = flat(first, mask), flat(second, mask)
    assert l2_distance(first, second, mask) == pytest.approx(np.linalg.norm(u - v), rel=1e-12)
    expected = math.degrees(math.acos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))
    assert angle(first, second, mask) == pytest.approx(expected, abs=1e-6)
    assert angle(second, first, mask) == pytest.approx(expected, abs=1e-6)
    assert angular_distance(first, second, mask) == pytest.approx(2 * math.radians(expected) / math.pi, abs=1e-8)


@pytest.mark.parametrize("degrees", [0.0, 1e-4, 30.0, 90.0, 179.9999, 180.0])
@pytest.mark.parametrize("length", [1.0, 1e-3, 250.0])
def test_angle_of_a_known_turn_whatever_the_lengths(degrees, length):
    turn = math.radians(degrees)
    first = {"w": torch.tensor([1.0, 0.0], dtype=torch.float64)}
    second = {"w": torch.tensor([math.cos(turn), math.sin(turn)], dtype=torch.float64) * length}
    assert angle(first, second, ALL) == pytest.approx(degrees, abs=1e-9)
    assert angular_distance(first, second, ALL) == pytest.approx(degrees / 90, abs=1e-11)


def test_pruned_weights_and_other_parameters_do_not_count():
    mask = Mask({"w": torch.tensor([True, False])})
    first, second = {**vector(1.0, 7.0), "bias": torch.ones(3)}, vector(4.0, math.nan)
    assert l2_distance(first, second, mask) == 3.0 and angle(first, second, mask) == 0.0


def test_the_angle_to_zero_is_nan_and_the_distance_is_not():
    assert math.isnan(angle(vector(0.0, 0.0), vector(1.0, 2.0), ALL))
    assert l2_distance(vector(0.0, 0.0), vector(3.0, 4.0), ALL) == 5.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.booleans())
def test_matrix_compares_each_pair_on_its_shared_weights(seed, count, with_initialization):
    states, masks = [drawn(seed + i) for i in range(count)], [mask_of(seed + i) for i in range(count)]
    initialization = drawn(seed + 99) if with_initialization else None
    matrix = angular_distance_matrix(states, masks, initialization)
    if with_initialization:
        states, masks = [*states, initialization], [*masks, mask_of(seed, density=2.0)]
    assert matrix.shape == (len(states), len(states)) and matrix.dtype == torch.float64
    for i in range(len(states)):
        for j in range(len(states)):
            expected = angular_distance(states[i], states[j], masks[i] & masks[j])
            assert float(matrix[i, j]) == pytest.approx(expected, abs=1e-7)
            assert i != j or matrix[i, j] == 0


def test_a_pair_without_shared_weights_has_no_distance():
    masks = [Mask({"w": torch.tensor(layer)}) for layer in ([True, False], [False, True], [False, False])]
    matrix = angular_distance_matrix([vector(1.0, 2.0)] * 3, masks, vector(2.0, 1.0))
    defined = [[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1]]
    assert (~matrix.isnan()).int().tolist() == defined
    assert matrix[3].tolist()[:2] == [0.0, 0.0]


def test_what_does_not_fit_is_refused():
    state, mask = drawn(0), mask_of(0)
    with pytest.raises(SettingError, match="2 networks with 1 masks"):
        angular_distance_matrix([state, state], [mask])
    with pytest.raises(SettingError, match="0 networks"):
        angular_distance_matrix([], [])
    with pytest.raises(MaskError, match="'b'"):
        angular_distance_matrix([state, state], [mask, Mask({n: mask[n] for n in "ac"})])
    with pytest.raises(MaskError, match="'c'"):
        angular_distance_matrix([state], [mask], {n: state[n] for n in "ab"})
    for function in (l2_distance, angle):
        with pytest.raises(MaskError, match="'a' has shape"):
            function(state, {**state, "a": torch.ones(3, 4)}, mask)


def test_a_model_is_refused_as_weights_and_plain_tensors_are_a_mask():
    model = torch.nn.Linear(2, 1, bias=False)
    layers = {"weight": torch.ones(1, 2, dtype=torch.bool)}
    with pytest.raises(SettingError, match=r"are a Linear; .* give model\.state_dict\(\)"):
        l2_distance(model, model.state_dict(), Mask(layers))
    assert l2_distance(model.state_dict(), model.state_dict(), layers) == 0.0
