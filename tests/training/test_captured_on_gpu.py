"""The captured step on a CUDA device, against the same step run eagerly, alone and together. `make gpu` runs these."""

import dataclasses

import pytest
import torch
from cohort_cases import RECIPE, Cases, Seen, assert_same, read_pixels

from sparselt.errors import TrainingError
from sparselt.training.captured import pinned_algorithms
from sparselt.training.recipe import Techniques
from sparselt.training.schedule import Schedule

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Cases:
    return Cases(read_pixels(tmp_path_factory.mktemp("pixels")), "cuda")


def members_of(cases: Cases, recipe=RECIPE, count: int = 4):
    """Other seeds, masks, learning rates and starts."""
    steeper = dataclasses.replace(recipe, schedule=Schedule("cosine", recipe.schedule.peak, warmup_steps=2))
    return [
        cases.member(
            seed,
            steeper if seed % 2 else recipe,
            mask=cases.mask(seed, 0.2 + 0.2 * seed) if seed else None,
            start_step=3 * (seed % 3),
        )
        for seed in range(count)
    ]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"precision": "bfloat16"},
        {"precision": "bfloat16", "fused_norm": True, "optimizer": "adam"},
        {"momentum": 0.0},
        {"nesterov": True, "weight_decay": 0.01},
        {"decoupled_weight_decay": True},
        {"micro_batches": 2},
        {"techniques": Techniques(bce=True, label_smoothing=0.1)},
        {"optimizer": "adam"},
        {"optimizer": "adamw"},
        {"optimizer": "rmsprop", "centered": True},
    ],
    ids=lambda change: change.get("optimizer", next(iter(change), "plain")),
)
def test_captured_and_eager_steps_agree_to_the_bit(cases, change):
    members = members_of(cases, dataclasses.replace(RECIPE, **change))
    wanted = (0, 3, 4, 11, 26)
    captured, eager = (
        cases.together(members, wanted, cases.cohort(members, captured=captured)) for captured in (True, False)
    )
    for (state, result, seen), (its_state, its_result, its_seen) in zip(captured, eager, strict=True):
        assert_same(state, its_state)
        assert result == its_result and seen.steps == its_seen.steps
        for step in its_seen.networks:
            assert_same(seen.networks[step], its_seen.networks[step])
            assert_same(seen.momentum[step], its_seen.momentum[step])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_each_of_four_gets_what_it_gets_alone_to_the_bit(cases, precision):
    members = members_of(cases, dataclasses.replace(RECIPE, precision=precision))
    for member, (state, result, _) in zip(members, cases.together(members), strict=True):
        ((its_state, its_result, _),) = cases.together([member])
        assert_same(state, its_state)
        assert result == its_result


def test_a_captured_training_is_the_eager_loops(cases):
    members = members_of(cases)
    for member, (state, result, seen) in zip(members, cases.together(members), strict=True):
        expected = Seen()
        with pinned_algorithms():
            its_state, its_result = cases.alone(member, expected)
        assert seen.steps == expected.steps and result.steps == its_result.steps
        assert result.train_loss == pytest.approx(its_result.train_loss, rel=1e-3)
        for name, tensor in its_state.items():
            if "num_batches" in name:
                assert torch.equal(state[name], tensor)
            torch.testing.assert_close(state[name], tensor, rtol=1e-2, atol=1e-3)


def test_two_runs_give_the_same_bits(cases):
    members = members_of(cases)
    for (state, result, _), (other, its_result, _) in zip(*(cases.together(members) for _ in range(2)), strict=True):
        assert_same(state, other)
        assert result == its_result


def test_a_capture_serves_other_masks_weights_seeds_schedules_and_numbers_of_members(cases):
    members = members_of(cases)
    cohort = cases.cohort(members)
    graph = cohort._graph
    cases.together(members, cohort=cohort)
    momentum = {name: torch.randn_like(p) * 0.01 for name, p in cases.network().named_parameters()}
    faster = dataclasses.replace(RECIPE, schedule=Schedule("step", 0.3, (20,)))
    others = [
        cases.member(7, faster, mask=cases.mask(9, 0.9), optimizer_state=momentum),
        cases.member(8, mask=cases.mask(8, 0.05), start_step=12),
    ]
    for _ in range(3):
        again = cases.together(others, (0, 1, 12, 13), cohort)
    assert cohort._graph is graph
    for member, (state, result, seen) in zip(others, again, strict=True):
        ((its_state, its_result, its_seen),) = cases.together([member], (0, 1, 12, 13))
        assert_same(state, its_state)
        assert result == its_result
        for step in its_seen.networks:
            assert_same(seen.networks[step], its_seen.networks[step])
            assert_same(seen.momentum[step], its_seen.momentum[step])
        for name, layer in member.mask.items():
            assert not state[name].cpu()[~layer].any()


def test_a_captured_step_trains_whatever_mode_the_modules_are_in(cases):
    members = members_of(cases)
    cohort, expected = cases.cohort(members), cases.together(members)
    for _, model, _ in cohort.train(members):
        model.eval()
    evaluated = [dataclasses.replace(member, on_step=lambda step, net: net.model.eval()) for member in members]
    for k, model, result in cohort.train(evaluated):
        assert_same(model.state_dict(), expected[k][0])
        assert result == expected[k][1]


@pytest.mark.parametrize("how", ["learning rate", "weights"])
def test_a_member_that_diverges_takes_nobody_with_it(cases, how):
    members = [cases.member(seed, mask=cases.mask(seed)) for seed in range(3)]
    healthy = cases.together(members)
    if how == "learning rate":
        schedule = dataclasses.replace(RECIPE.schedule, peak=1e30)
        members[1] = dataclasses.replace(members[1], recipe=dataclasses.replace(RECIPE, schedule=schedule))
    else:
        broken = {**members[1].state, "fc.bias": torch.full((10,), float("nan"))}
        members[1] = dataclasses.replace(members[1], state=broken)
    cohort = cases.cohort(members)
    found = cases.together(members, cohort=cohort)
    assert isinstance(found[1][1], TrainingError)
    for k in (0, 2):
        assert_same(found[k][0], healthy[k][0])
        assert found[k][1] == healthy[k][1]
    members[1] = cases.member(1, mask=cases.mask(1))
    for (state, result, _), (its_state, its_result, _) in zip(
        cases.together(members, cohort=cohort), healthy, strict=True
    ):
        assert_same(state, its_state)
        assert result == its_result


def test_the_host_waits_for_nothing_between_the_first_step_and_the_last(cases):
    """From the second step, over the end of an epoch, to the eighteenth; a member that starts late ends after it."""

    def on_step(step, network):
        if step in (1, 18):
            torch.cuda.set_sync_debug_mode("error" if step == 1 else "default")

    members = members_of(cases)
    members[0] = dataclasses.replace(members[0], on_step=on_step)
    cohort = cases.cohort(members)
    try:
        assert all(not isinstance(result, Exception) for _, _, result in cohort.train(members))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_speed_is_measured_and_leaves_the_cohort_fit_for_training(cases):
    members = members_of(cases)
    cohort = cases.cohort(members)
    assert cohort.images_per_second() > 0
    for (state, _, _), (expected, _, _) in zip(
        cases.together(members, cohort=cohort), cases.together(members), strict=True
    ):
        assert_same(state, expected)
