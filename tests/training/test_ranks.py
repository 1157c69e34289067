"""Networks that several processes train together, against one process that trains them alone."""

import pytest
import ranks_cases
import torch
from ranks_cases import InRanks, normalized_input
from torch import nn

from sparselt.errors import TrainingError
from sparselt.stages import Task
from sparselt.stages.gang import train_in_gang
from sparselt.training.checkpoint import load_tensors

# Networks are float64, but the loop takes the loss in float32. After 100 steps 6e-8 was the largest difference.
ROUNDING = 1e-6


def together(case, count, folder):
    task = Task({}, frozenset(), folder, lambda work: None)
    train_in_gang(InRanks(case=case), task, count)
    return [load_tensors(folder / f"{rank}.safetensors") for rank in range(count)]


@pytest.fixture(scope="module", params=[2, 4], ids="{} ranks".format)
def ranks(request, tmp_path_factory):
    return Found(together("every_way", request.param, tmp_path_factory.mktemp("ranks")))


class Found:
    """What each rank returned."""

    def __init__(self, parts):
        self.count, self._parts = len(parts), parts

    def of(self, way):
        return [
            {name.removeprefix(f"{way}/"): t for name, t in part.items() if name.startswith(f"{way}/")}
            for part in self._parts
        ]


def test_ranks_train_the_network_that_one_process_trains_up_to_rounding(ranks):
    alone = ranks_cases.train()
    for trained in ranks.of("all"):
        weights = sum(tensor.numel() for name, tensor in alone.items() if name.endswith(("weight", "bias")))
        assert weights < trained["bytes"] / 8 < weights + 10
        for name in alone.keys() - {"bytes"}:
            assert torch.allclose(trained[name], alone[name], rtol=0, atol=ROUNDING), name


def test_two_runs_give_the_same_bits_on_every_rank(ranks):
    first = ranks.of("all")[0]
    for trained in (*ranks.of("all"), *ranks.of("again")):
        assert all(torch.equal(first[name], trained[name]) for name in first)


def test_batch_norm_of_each_share_is_another_training(ranks):
    assert not torch.allclose(ranks.of("all")[0]["loss"], ranks.of("apart")[0]["loss"], atol=1e-3)


def test_live_gradients_alone_give_the_same_network_for_fewer_bytes(ranks):
    everything, live = ranks.of("all")[0], ranks.of("live")[0]
    for name in everything.keys() - {"bytes"}:
        same = torch.equal if ranks.count == 2 else lambda a, b: torch.allclose(a, b, rtol=0, atol=ROUNDING)
        assert same(everything[name], live[name]), name
    assert 0.2 < live["bytes"] / everything["bytes"] < 0.3  # a fifth of the prunable weights, and all others


def test_synchronized_batch_norm_is_that_of_the_whole_batch(ranks):
    x, weights = normalized_input()
    norm = nn.BatchNorm2d(4).double()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 4))
    x.requires_grad_()
    out = norm(x)
    (out * weights).sum().backward()
    found = ranks.of("normalized")
    assert torch.allclose(torch.cat([part["out"] for part in found]), out)
    assert torch.allclose(torch.cat([part["grad"] for part in found]), x.grad)
    assert torch.allclose(sum(part["scale"] for part in found), norm.weight.grad)
    for part in found:
        assert all(torch.allclose(part[f"0.{name}"], tensor) for name, tensor in norm.state_dict().items())


def test_an_evaluation_in_parts_is_that_of_all_images(ranks):
    alone = ranks_cases.evaluated()["found"]
    for part in ranks.of("evaluated"):
        assert torch.allclose(part["found"], alone, rtol=1e-6)  # the loss is float32


def test_ranks_whose_networks_differ_are_named(ranks):
    for part in ranks.of("unequal"):
        words = bytes(part["words"].tolist()).decode()
        assert f"4.weight of rank {ranks.count - 1} differs from that of rank 0 at step 7" in words


def test_the_error_of_one_rank_ends_all_and_is_the_one_that_is_raised(tmp_path):
    with pytest.raises(TrainingError, match="the second rank says why"):
        together("one_fails", 2, tmp_path)
    assert not list(tmp_path.iterdir())
