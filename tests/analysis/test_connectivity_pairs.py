"""Heat maps: all pairs at once against each path alone, and the stages that measure paths and heat maps."""

import pytest
import torch

from sparselt.analysis import between, evaluate_path, pairwise_max_error
from sparselt.errors import SettingError
from sparselt.models import build_model
from sparselt.stages.paths import EvaluatePairs
from sparselt.stages.train import finals

POSITIONS = (0.0, 0.3, 0.5, 1.0)


@pytest.fixture(scope="module")
def networks():
    """Three networks whose norms have seen data, and two batches."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(90, 1, 8, 8, generator=generator)
    labels = torch.randint(0, 10, (90,), generator=generator)
    states = []
    for seed in range(3):
        model = build_model("resnet8", classes=10, channels=1, seed=seed, norm_scale="uniform")
        with torch.no_grad():
            model(images * (seed + 1))
        states.append(model.state_dict())
    return model, states, [(images[:60], labels[:60]), (images[60:], labels[60:])]


@pytest.mark.parametrize("buffers", ["interpolate", "first", "second", "reestimate", "per_batch"])
def test_a_heat_map_is_that_of_its_paths(networks, buffers):
    model, states, batches = networks
    options = {"buffers": buffers, "training_batches": batches, "folded": False}
    found = pairwise_max_error(model, states, batches, POSITIONS, **options)
    for (i, j), path in found.paths.items():
        alone = evaluate_path(model, states[i], states[j], batches, POSITIONS, **options)
        assert path.errors[1:-1] == alone.errors[1:-1] and path.losses[1:-1] == alone.losses[1:-1]
        assert found.max_error[i][j] == found.max_error[j][i] == max(path.errors)
        assert found.barrier[i][j] == path.barrier and found.instability[j][i] == path.instability
        if buffers not in ("first", "second"):  # whose ends have buffers that are not their own
            assert path == alone
    assert list(found.paths) == [(0, 1), (0, 2), (1, 2)]
    assert [found.max_error[i][i] for i in range(3)] == list(found.errors)
    assert found.barrier[0][0] == found.instability[2][2] == 0


def test_how_many_networks_are_made_at_a_time_changes_nothing(networks, monkeypatch):
    model, states, batches = networks
    whole = pairwise_max_error(model, states, batches, POSITIONS, buffers="reestimate", training_batches=batches)
    size = sum(tensor.nbytes for tensor in states[0].values())
    for many in (1, 2, 4):
        monkeypatch.setattr(between, "CHUNK_BYTES", many * size)
        some = pairwise_max_error(model, states, batches, POSITIONS, buffers="reestimate", training_batches=batches)
        assert some == whole


def test_one_network_has_no_pairs(networks):
    model, states, batches = networks
    with pytest.raises(SettingError, match="a heat map of 1 networks has no pair"):
        pairwise_max_error(model, states[:1], batches, POSITIONS)


def test_stages_measure_paths_and_heat_maps(bench):
    lab = bench.lab()
    trainings = [lab.ticket(0, 6, level) for level in range(3)]
    path = bench.json(lab.path(*trainings[:2], "a path"), "path.json")
    assert path["instability"] == path["max_error"] - (path["errors"][0] + path["errors"][-1]) / 2
    assert path["barrier"] >= 0 and path["loss_barrier"] >= 0
    networks = finals(trainings)
    for choice, more in (("interpolate", {}), ("reestimate", {"batch_norm_images": 200}), ("per_batch", {})):
        stage = EvaluatePairs(points=3, batch_norm=choice, networks=networks, **lab.evaluation_arguments, **more)
        values = bench.json(stage, "values.json")["values"]
        assert len(values) == 3 * 3 + 3
        cell = {(v["metric"], v["level"], v["to_level"]): v["value"] for v in values}
        if choice == "interpolate":
            assert cell["max_error", 0, 1] == path["max_error"] and cell["max_error", 0, 0] == path["errors"][0]
            assert cell["barrier", 0, 1] == path["barrier"] and cell["instability", 0, 1] == path["instability"]
        assert all(0 <= value <= 1 for value in cell.values())


@pytest.mark.parametrize("positions", [[0, 0.5], [0.1, 1], [0, 0.7, 0.5, 1], [0, float("nan"), 1], []])
def test_positions_that_are_no_path_from_one_network_to_the_other_are_refused(networks, positions):
    model, states, batches = networks
    with pytest.raises(SettingError, match="path positions are"):
        pairwise_max_error(model, states, batches, positions)


def test_the_network_that_does_not_fit_is_named_by_its_number(networks):
    model, states, batches = networks
    with pytest.raises(SettingError, match=r"^network 2 lacks '"):
        pairwise_max_error(model, [*states[:2], {}], batches, POSITIONS)
