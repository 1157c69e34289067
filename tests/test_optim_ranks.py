"""Masked optimizers in the processes of torch.distributed: DistributedDataParallel, and what is refused by name."""

import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from sparselt import Mask, MaskedSGD, magnitude_prune, sparsify_
from sparselt.errors import MaskError, SettingError
from sparselt.optim import keep_masked


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def digest(tensors) -> list[float]:
    return [float(tensor.double().sum()) for tensor in tensors]


def step(model, optimizer, seed: int) -> None:
    optimizer.zero_grad()
    torch.manual_seed(seed)
    model(torch.randn(4, 12)).square().sum().backward()
    optimizer.step()


USES = {
    "apply_": lambda model, mask: mask.apply_(model),
    "apply_as_prune": lambda model, mask: mask.apply_as_prune(model),
    "keep_masked": lambda model, mask: keep_masked(torch.optim.SGD(model.parameters()), model, mask),
    "magnitude_prune": lambda model, mask: magnitude_prune(model, mask, 0.5),
    "MaskedSGD": lambda model, mask: MaskedSGD(model.named_parameters(), mask=mask),
    "ones_like": lambda model, mask: Mask.ones_like(model),
    "sparsify_": sparsify_,
}


def said(function) -> str:
    """The type and the text of the error that a function raises."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def broadcasts(rank: int) -> dict:
    """What `Mask.broadcast` does where ranks list layers in another order, or have other layers."""
    first, second = torch.tensor([True] * 4).view(2, 2), torch.tensor([False] * 4).view(2, 2)
    swapped = Mask({"a": first, "b": second} if rank == 0 else {"b": first, "a": second}).broadcast()
    layout = torch.tensor([[True, False], [False, False]])
    strided = Mask({"a": layout[:, [1, 0]] if rank else layout.T.contiguous().T}).broadcast()
    long = torch.ones(20 if rank else 3, dtype=torch.bool)
    short = torch.ones(3 if rank else 20, dtype=torch.bool)
    return {
        "order": {name: layer.tolist() for name, layer in swapped.items()},
        "names in order": list(swapped),
        "strides": strided["a"].tolist(),
        "names": said(Mask({"b" if rank else "a": first}).broadcast),
        "longer": said(Mask({"a": long}).broadcast),
        "shorter": said(Mask({"a": short}).broadcast),
        "source": said(lambda: Mask({"a": first}).broadcast(2)),
    }


def one_rank(rank: int, folder: str) -> None:
    import torch.distributed as dist
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
    from torch.distributed.optim import ZeroRedundancyOptimizer

    dist.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2)
    torch.manual_seed(rank)  # as where nobody seeds: every rank draws its own weights
    found = {}
    plain = network()
    drawn = magnitude_prune(plain, Mask.ones_like(plain), fraction=0.5)  # before the ranks agree on the weights
    model = nn.parallel.DistributedDataParallel(plain)
    mask = drawn.broadcast()
    try:
        drawn.check_equal_across_ranks()
    except MaskError as error:
        found["unequal"] = str(error)
    mask.check_equal_across_ranks(dist.group.WORLD)
    layers = dict(list(mask.items())[: 1 + rank])
    try:
        Mask(layers).check_equal_across_ranks()
    except MaskError as error:
        found["fewer layers"] = str(error)
    found["drawn"], found["mask"] = digest(drawn.values()), digest(mask.values())
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, mask=mask)
    for seed in range(3):
        step(model, optimizer, 2 * seed + rank)
    found["weights"] = digest(plain.parameters())
    found["masked"] = [int(plain.get_parameter(name)[~layer].count_nonzero()) for name, layer in mask.items()]

    found["broadcast"] = broadcasts(rank)
    split = fully_shard(network())
    found["split"] = {name: said(lambda use=use: use(split, mask)) for name, use in USES.items()}
    flattened = FullyShardedDataParallel(network(), use_orig_params=True, device_id=torch.device("cpu"))
    found["flattened"] = {name: said(lambda use=use: use(flattened, mask)) for name, use in USES.items()}
    with FullyShardedDataParallel.summon_full_params(flattened):  # their shapes are back
        mask.apply_(flattened)
        found["summoned"] = Mask.ones_like(flattened).size

    for kind, given in (("fsdp", split), ("zero", model)):
        try:
            if kind == "fsdp":
                MaskedSGD(given.named_parameters(), lr=0.1)
            else:
                ZeroRedundancyOptimizer(given.parameters(), optimizer_class=MaskedSGD, lr=0.1, mask=mask)
        except SettingError as error:
            found[kind] = str(error)

    zero = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=torch.optim.SGD, lr=0.1, momentum=0.9)
    fewer = Mask({name: layer & (plain.get_parameter(name) > 0) for name, layer in mask.items()})
    keep_masked(zero, plain, fewer)
    for seed in range(2):
        step(model, zero, 2 * seed + rank)
    found["kept"] = [int(plain.get_parameter(name)[~layer].count_nonzero()) for name, layer in fewer.items()]
    found["sharded"] = digest(plain.parameters())
    zero = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=torch.optim.Adam, lr=0.1)
    keep_masked(zero, plain, fewer)
    for seed in range(2):
        step(model, zero, 2 * seed + rank)
    state = [
        tensor[~layer].abs().sum().item()
        for name, layer in fewer.items()
        for tensor in zero.optim.state.get(plain.get_parameter(name), {}).values()
        if tensor.shape == layer.shape
    ]
    found["state kept"], found["state pruned"] = len(state), sum(state)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
    # FSDP's mesh still holds the group (torch 2.15): its threads would abort some exits of a busy machine (SIGABRT).
    os._exit(0)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.multiprocessing.spawn(one_rank, (str(folder),), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without torch.distributed"),
]


def test_masks_drawn_on_each_rank_are_made_one_and_the_ranks_stay_equal(ranks):
    first, second = ranks
    assert first["drawn"] != second["drawn"], "the ranks drew one mask, and nothing is tested"
    assert first["mask"] == second["mask"] == first["drawn"]
    assert first["weights"] == second["weights"] and first["masked"] == second["masked"] == [0, 0]


def test_masks_that_differ_between_ranks_are_named_on_every_rank(ranks):
    for found in ranks:
        assert found["unequal"].startswith("the ranks' masks are not equal: '0.weight' of rank 1 differs from that")
        assert "mask = mask.broadcast()" in found["unequal"]
        assert "'2.weight' of rank 1 differs" in found["fewer layers"]


def test_broadcast_goes_by_name_whatever_the_order_and_the_strides(ranks):
    for found in ranks:
        assert found["broadcast"]["order"] == {"a": [[True] * 2] * 2, "b": [[False] * 2] * 2}
        assert found["broadcast"]["names in order"] == ["a", "b"]
        assert found["broadcast"]["strides"] == [[True, False], [False, False]]


def test_broadcast_of_other_layers_is_refused_on_every_rank(ranks):
    for found in ranks:
        said = found["broadcast"]
        assert said["names"].startswith(
            "MaskError: the ranks' masks have other layers: of 'a' rank 1 has none, rank 0 has"
        )
        assert "of 'a' rank 1 has shape (20,), rank 0 has shape (3,)" in said["longer"]
        assert "of 'a' rank 1 has shape (3,), rank 0 has shape (20,)" in said["shorter"]
        assert said["source"] == "SettingError: source is 2; expected a rank from 0 to 1"


def test_a_single_process_has_nothing_to_compare():
    Mask.ones_like(network()).check_equal_across_ranks()


def test_sharded_parameters_are_refused_by_name(ranks):
    for found in ranks:
        assert "0.weight is a DTensor, of which every rank holds a part (FSDP" in found["fsdp"]
        assert "DistributedDataParallel" in found["fsdp"]


@pytest.mark.parametrize("use", USES)
def test_networks_that_fsdp_has_split_are_refused_by_name(ranks, use):
    for found in ranks:
        assert found["split"][use].startswith("MaskError: 0.weight is a DTensor, of which every rank holds a part")
        assert found["flattened"][use].startswith(
            "MaskError: _fsdp_wrapped_module.0.weight is flattened by FSDP, of which"
        )
        assert found["summoned"] == 12 * 8 + 8 * 3


def test_a_layer_that_is_split_over_ranks_makes_no_mask():
    layer = torch.ones(2, dtype=torch.bool)
    layer.placements = ()  # the mark of a DTensor
    with pytest.raises(MaskError, match="mask layer w is a DTensor, of which every rank holds a part"):
        Mask({"w": layer})


def test_weights_in_one_flat_parameter_of_fsdp_are_named():
    flat = nn.Parameter(torch.ones(4))
    flat._fsdp_flattened = True
    mask = Mask({"0.weight": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(MaskError, match=r"0\.weight is flattened by FSDP"):
        mask.check_fits({"_fsdp_wrapped_module._flat_param": flat})


def test_keep_masked_keeps_the_state_inside_the_zero_redundancy_optimizer(ranks):
    assert sum(found["state kept"] for found in ranks) == 4  # two layers of two moments
    assert [found["state pruned"] for found in ranks] == [0, 0]


def test_the_zero_redundancy_optimizer_is_refused_by_name_and_keep_masked_serves_it(ranks):
    first, second = ranks
    for found in ranks:
        assert "ZeroRedundancyOptimizer passes it in the group" in found["zero"] and "keep_masked" in found["zero"]
    assert first["kept"] == second["kept"] == [0, 0] and first["sharded"] == second["sharded"]


def test_parameters_of_the_older_fsdp_are_refused_by_name():
    # FSDP itself needs an accelerator; this is the mark that it gives its parameters.
    weight = nn.Parameter(torch.ones(4))
    weight._fsdp_flattened = True
    with pytest.raises(SettingError, match="weight is flattened by FSDP, of which every rank holds a part"):
        MaskedSGD([("weight", weight)], lr=0.1)
