"""Compiled networks get the same bits alone and together, and what happens if they would not."""

import dataclasses

import pytest
import torch
from cohort_cases import RECIPE, Cases, assert_same, read_pixels
from stage_cases import task
from torch import nn
from torch._dynamo.utils import counters

from sparselt.stages import side_by_side
from sparselt.stages.side_by_side import best_group_size, train_side_by_side
from sparselt.training import cohort as cohorts
from sparselt.training.cohort import Cohort, Member
from sparselt.training.joining import DifferentBits, check_same_bits
from sparselt.training.loop import forward_passes
from sparselt.training.timing import made_up_loader

COMPILED = dataclasses.replace(RECIPE, compile=True, steps=4)


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Cases:
    torch.set_num_threads(1)
    return Cases(read_pixels(tmp_path_factory.mktemp("pixels")), "cpu")


def small(seed: int) -> nn.Module:
    """Compiles in seconds."""
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(body, nn.Linear(4, 10)).to(memory_format=torch.channels_last)


def trained(cases, seeds) -> list[dict]:
    members = [Member(COMPILED, cases.loader(seed), small(seed).state_dict()) for seed in seeds]
    cohort = Cohort([small(9) for _ in seeds], COMPILED, members[0].loader)
    found = {k: {name: t.clone() for name, t in model.state_dict().items()} for k, model, _ in cohort.train(members)}
    return [found[k] for k in range(len(seeds))]


def test_compiled_networks_are_the_same_alone_and_together_in_one_and_in_another_compilation(cases):
    from torch._inductor.utils import fresh_cache

    counters.clear()
    together = trained(cases, (0, 1, 2))
    assert counters["stats"]["unique_graphs"] == 1, "all networks share one compiled step"
    with fresh_cache():  # as in another process on a machine that has compiled nothing yet
        counters.clear()
        alone = trained(cases, (1,))
        assert counters["inductor"]["fxgraph_cache_miss"] and not counters["inductor"]["fxgraph_cache_hit"]
    assert_same(together[1], alone[0])


def test_no_measurement_decides_what_is_compiled(monkeypatch):
    given = {}
    monkeypatch.setattr(torch, "compile", lambda model, **options: given.update(options) or model)
    forward_passes([small(0)], COMPILED)
    assert given["options"] == {"deterministic": True}


@pytest.fixture
def uneven(monkeypatch):
    """A compiler that rounds differently for every network but the first."""

    def compiled(models, recipe):
        others = [lambda images, model=model: model(images.double().mul(1 + 1e-6).float()) for model in models[1:]]
        return [models[0], *others]

    monkeypatch.setattr(cohorts, "forward_passes", compiled)


def test_networks_that_round_differently_are_refused_by_number(cases, uneven):
    with pytest.raises(DifferentBits, match=r"network 1 of resnet8, compiled, rounds differently .* --cohort 1"):
        cases.cohort([cases.member(seed, COMPILED) for seed in range(3)])
    assert cases.cohort([cases.member(0, COMPILED)]).size == 1  # alone there is nothing to compare
    assert cases.cohort([cases.member(seed) for seed in range(2)]).size == 2  # nor where nothing is compiled


@pytest.mark.parametrize("what", ["loss", "gradient", "buffer"])
def test_a_difference_is_found_in(cases, what):
    networks, loader = [small(0), small(1)], cases.loader(0)
    check_same_bits(networks, networks, loader, COMPILED)
    assert all(p.grad is None for network in networks for p in network.parameters())
    body, last = networks[1]

    def odd(images):
        outputs = networks[1](images)
        if what == "buffer":
            body[1].running_mean.data.mul_(1.0001)
            return outputs
        # A multiple of what is 0 changes the gradient alone.
        return outputs + (last.bias - last.bias.detach() if what == "gradient" else torch.arange(10) * 1e-3)

    with pytest.raises(DifferentBits):
        check_same_bits(networks, [networks[0], odd], loader, COMPILED)


def test_stages_that_would_differ_are_trained_one_at_a_time(bench, tmp_path, uneven, capsys):
    """To what they get alone."""
    lab = bench.lab(compile=True, steps=6, milestones=(), rewind_steps=(0,), control_rewind_step=0)
    stages = [lab.dense(0), lab.dense(1)]
    bench.run(*(file.stage for stage in stages for file in stage.inputs.values()))

    def run(name, chosen):
        jobs = []
        for k, stage in enumerate(chosen):
            folder = tmp_path / name / str(k)
            folder.mkdir(parents=True)
            jobs.append((stage, task(stage, folder, {n: bench.path(file) for n, file in stage.inputs.items()})))
        results = dict(train_side_by_side(jobs))
        side_by_side.forget_cohort()
        return results, [(job.folder / "final.safetensors").read_bytes() for _, job in jobs]

    results, together = run("together", stages)
    assert results == {0: 6, 1: 6}
    assert "networks are trained one at a time: network 1" in capsys.readouterr().err
    assert together == [run(f"alone-{k}", [stage])[1][0] for k, stage in enumerate(stages)]


def test_no_size_is_chosen_whose_networks_would_differ(bench, uneven, capsys):
    stage = bench.lab(compile=True, batch_size=16).dense(0)
    loader = made_up_loader(stage.recipe, 10, 1, 8, {"padding": 1, "flip": False}, "cpu")
    assert best_group_size(stage, loader) == 1
    assert "2 networks side by side cannot be measured" in capsys.readouterr().err
