"""Networks trained together against `loop.train` alone, to the bit, with the step run eagerly on the CPU."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from cohort_cases import RECIPE, Cases, Seen, assert_same, read_pixels

from sparselt.errors import SettingError, TrainingError
from sparselt.models import MODELS
from sparselt.training.cohort import Cohort
from sparselt.training.schedule import Schedule
from sparselt.training.step import Branch
from sparselt.training.techniques import TECHNIQUES, Techniques


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Cases:
    torch.set_num_threads(1)
    return Cases(read_pixels(tmp_path_factory.mktemp("pixels")), "cpu")


def test_networks_trained_together_are_those_trained_alone(cases):
    """Other seeds, masks and learning rates, momentum restored, a start within an epoch, shorter trainings."""
    torch.manual_seed(0)
    momentum = {name: 0.01 * torch.randn(p.shape) for name, p in cases.network().named_parameters()}
    steeper = dataclasses.replace(RECIPE, schedule=Schedule("cosine", 0.1))
    members = [
        cases.member(0),
        cases.member(1, mask=cases.mask(1), start_step=3),
        cases.member(2, steeper, mask=cases.mask(2, 0.8), start_step=20, momentum=momentum),
    ]
    cases.assert_as_alone(members, wanted=(0, 3, 4, 20, 21, 26))


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bfloat16", "nesterov": True},
        {"momentum": 0.0, "micro_batches": 4},
        {"decoupled_weight_decay": True, "techniques": Techniques(bce=True, label_smoothing=0.1)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_recipe_gives_what_it_gives_alone(cases, change):
    recipe = dataclasses.replace(RECIPE, **change)
    cases.assert_as_alone([cases.member(seed, recipe, mask=cases.mask(seed)) for seed in range(2)], wanted=(1,))


def test_a_cohort_is_used_again_for_other_masks_weights_and_seeds(cases):
    members = [cases.member(seed, mask=cases.mask(seed)) for seed in range(3)]
    cohort = cases.cohort(members)
    cases.together(members, cohort=cohort)
    denser = [cases.member(5, mask=cases.mask(3, 0.9), start_step=16), cases.member(6, start_step=16)]
    cases.assert_as_alone(denser, wanted=(16, 17), cohort=cohort)


@pytest.mark.parametrize("how", ["learning rate", "weights"])
def test_a_member_that_diverges_takes_nobody_with_it(cases, how):
    members = [cases.member(seed, mask=cases.mask(seed)) for seed in range(3)]
    if how == "learning rate":
        schedule = dataclasses.replace(RECIPE.schedule, peak=1e30)
        members[1] = dataclasses.replace(members[1], recipe=dataclasses.replace(RECIPE, schedule=schedule))
    else:
        broken = {**members[1].state, "fc.bias": torch.full((10,), float("nan"))}
        members[1] = dataclasses.replace(members[1], state=broken)
    cohort = cases.cohort(members)
    found = cases.together(members, cohort=cohort)
    assert isinstance(found[1][1], TrainingError) and "diverged" in str(found[1][1])
    for k in (0, 2):
        state, result = cases.alone(members[k], Seen())
        assert_same(found[k][0], state)
        assert found[k][1] == result
    cases.assert_as_alone([cases.member(seed, start_step=20) for seed in range(3)], cohort=cohort)


def test_networks_that_a_captured_step_computes_along_change_nothing(cases):
    """As a replayed graph does: every branch in every step, those that are done and those without a member too."""
    cohort = cases.cohort([cases.member(seed) for seed in range(3)])
    cohort._graph = SimpleNamespace(replay=lambda: cohort._step(cohort._branches))
    for _ in range(2):
        cases.assert_as_alone([cases.member(0, mask=cases.mask(0)), cases.member(1, start_step=7)], (7, 8), cohort)
    assert cohort.images_per_second() > 0
    cases.assert_as_alone([cases.member(2, start_step=20)], cohort=cohort)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_step_reads_no_value_on_the_host(cases, precision):
    """Tensors without values raise where one is asked for, which would be a wait on a GPU and an error in a capture."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    recipe = dataclasses.replace(RECIPE, precision=precision, micro_batches=2)
    with FakeTensorMode():
        loader = SimpleNamespace(
            device=torch.device("cpu"),
            steps_per_epoch=10,
            transform=cases.loader(0).transform,
            _images=torch.empty(330, 3, 12, 12, dtype=torch.uint8),
            _labels=torch.empty(330, dtype=torch.int64),
        )
        model = MODELS["resnet8"](10, 3)
        branch = Branch(model, model, loader, recipe)
        branch.compute()
        assert all(p.grad is not None for p in model.parameters())
        with pytest.raises(DataDependentOutputException):
            branch.rate.item()


def test_what_a_cohort_cannot_train_is_refused_with_the_reason(cases):
    loader = cases.loader(0)
    for techniques, reason in (
        (TECHNIQUES["mild"], "progressive resizing"),
        (Techniques(ema_half_life=5), "weight average"),
    ):
        with pytest.raises(SettingError, match=reason):
            Cohort([cases.network()], dataclasses.replace(RECIPE, techniques=techniques), loader)
    with pytest.raises(SettingError, match="dropout"):
        Cohort([torch.nn.Sequential(cases.network(), torch.nn.Dropout())], RECIPE, loader)


def test_members_that_do_not_fit_are_refused_before_anything_is_trained(cases):
    first = cases.member(0)
    cohort = cases.cohort([first])
    other = cases.loader(0)
    other.transform = dataclasses.replace(other.transform, padding=2)
    for members, reason in (
        ([], "0 members"),
        ([first, first], "2 members"),
        ([dataclasses.replace(first, recipe=dataclasses.replace(RECIPE, momentum=0.5))], "recipe"),
        ([dataclasses.replace(first, loader=other)], "augments"),
        ([dataclasses.replace(first, start_step=26)], "start_step"),
    ):
        with pytest.raises(SettingError, match=reason):
            next(cohort.train(members))
