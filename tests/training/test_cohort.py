"""Networks trained together against `loop.train` alone, to the bit, with the step run eagerly on the CPU."""

import copy
import dataclasses
import functools
from types import SimpleNamespace

import pytest
import torch
from cohort_cases import RECIPE, Cases, Seen, assert_same, read_pixels
from torch import nn
from torchvision.ops import StochasticDepth

from sparselt.data import Shard, StreamingTrainLoader, SyntheticImages, open_dataset, write_dataset
from sparselt.errors import MaskError, SettingError, TrainingError
from sparselt.models import MODELS
from sparselt.stopping import Signals
from sparselt.training.cohort import Cohort
from sparselt.training.forward import TrainingForward
from sparselt.training.progress import Progress
from sparselt.training.recipe import TECHNIQUES, Techniques
from sparselt.training.schedule import Schedule
from sparselt.training.step import Branch


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Cases:
    torch.set_num_threads(1)
    return Cases(read_pixels(tmp_path_factory.mktemp("pixels")), "cpu")


@pytest.fixture
def streaming(cases, tmp_path) -> StreamingTrainLoader:
    write_dataset(SyntheticImages(330, 60, classes=10, height=12, width=12, storage="raw"), tmp_path)
    return StreamingTrainLoader(open_dataset(tmp_path), RECIPE.batch_size, 0, 0, cases.loader(0).transform)


def test_networks_trained_together_are_those_trained_alone(cases):
    """Other seeds, masks and learning rates, momentum restored, a start within an epoch, shorter trainings."""
    torch.manual_seed(0)
    momentum = {name: 0.01 * torch.randn(p.shape) for name, p in cases.network().named_parameters()}
    steeper = dataclasses.replace(RECIPE, schedule=Schedule("cosine", 0.1))
    members = [
        cases.member(0),
        cases.member(1, mask=cases.mask(1), start_step=3),
        cases.member(2, steeper, mask=cases.mask(2, 0.8), start_step=20, optimizer_state=momentum),
    ]
    cases.assert_as_alone(members, wanted=(0, 3, 4, 20, 21, 26))


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bfloat16", "nesterov": True},
        {"momentum": 0.0, "micro_batches": 4},
        {"decoupled_weight_decay": True, "techniques": Techniques(bce=True, label_smoothing=0.1)},
        {"optimizer": "adam", "betas": (0.8, 0.99)},
        {"optimizer": "adamw"},
        {"optimizer": "rmsprop", "centered": True, "momentum": 0.5},
    ],
    ids=lambda change: change.get("optimizer", next(iter(change))),
)
def test_every_recipe_gives_what_it_gives_alone(cases, change):
    recipe = dataclasses.replace(RECIPE, **change)
    cases.assert_as_alone([cases.member(seed, recipe, mask=cases.mask(seed)) for seed in range(2)], wanted=(1,))


def test_a_restored_state_of_adam_goes_on_counting_its_steps(cases):
    recipe = dataclasses.replace(RECIPE, optimizer="adam")
    whole = cases.member(0, recipe)
    ((trained, _, seen),) = cases.together([whole], wanted=(20,))
    resumed = dataclasses.replace(whole, state=seen.networks[20], start_step=20, optimizer_state=seen.momentum[20])
    cases.assert_as_alone([resumed, cases.member(1, recipe)], wanted=(21, 26))
    assert_same(cases.together([resumed])[0][0], trained)


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


def test_a_member_whose_watcher_finds_that_it_diverged_ends_alone(cases):
    def on_step(step, network):
        if step == 9:
            raise TrainingError("the training diverged at step 9")

    members = [cases.member(seed, mask=cases.mask(seed)) for seed in range(3)]
    members[1] = dataclasses.replace(members[1], on_step=on_step)
    trained = cases.cohort(members).train(members)
    found = {k: (copy.deepcopy(network.state_dict()), result) for k, network, result in trained}
    assert "diverged at step 9" in str(found[1][1])
    for k in (0, 2):
        state, result = cases.alone(members[k], Seen())
        assert_same(found[k][0], state)
        assert found[k][1] == result


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_networks_that_a_captured_step_computes_along_change_nothing(cases, precision):
    """As a replayed graph does: every branch in every step, those that are done and those without a member too."""
    recipe = dataclasses.replace(RECIPE, precision=precision)
    cohort = cases.cohort([cases.member(seed, recipe) for seed in range(3)])
    cohort._graph = SimpleNamespace(replay=lambda: cohort._step(cohort._branches))
    for _ in range(2):
        members = [cases.member(0, recipe, mask=cases.mask(0)), cases.member(1, recipe, start_step=7)]
        cases.assert_as_alone(members, (7, 8), cohort)
    assert cohort.images_per_second() > 0
    cases.assert_as_alone([cases.member(2, recipe, start_step=20)], cohort=cohort)


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
        rate = torch.zeros((), dtype=torch.float64)
        branch = Branch(model, TrainingForward(model), rate, loader, recipe)
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
    for module in (
        nn.Dropout(),
        nn.AlphaDropout(),
        nn.RReLU(),
        nn.FractionalMaxPool2d(2, output_size=4),
        nn.LSTM(3, 3, num_layers=2, dropout=0.1),
        nn.MultiheadAttention(4, 2, dropout=0.1),
        StochasticDepth(0.1, "row"),
    ):
        with pytest.raises(SettingError, match=f"{type(module).__name__} draws"):
            Cohort([cases.network(), nn.Sequential(cases.network(), module)], RECIPE, loader)
    Cohort([nn.Sequential(cases.network(), nn.LSTM(10, 3))], RECIPE, loader)


def test_networks_and_loaders_that_make_no_cohort_are_refused(cases, streaming):
    halves = dataclasses.replace(RECIPE, batch_size=16)
    wider = MODELS["resnet8"](20, 3)
    deeper = nn.Sequential(cases.network())
    for models, recipe, loader, reason in (
        ([], RECIPE, cases.loader(0), "no network"),
        ([cases.network(), wider], RECIPE, cases.loader(0), r"network 1 .*fc.weight has shape \(20, 32\)"),
        ([cases.network(), deeper], RECIPE, cases.loader(0), r"network 1 .*lacks"),
        ([cases.network()], halves, cases.loader(0), "batches of 32.* 16"),
        ([cases.network()], RECIPE, streaming, "StreamingTrainLoader"),
        ([cases.network()], RECIPE, sharded(cases.loader(0)), "one rank's share"),
    ):
        with pytest.raises(SettingError, match=reason):
            Cohort(models, recipe, loader)


def sharded(loader):
    loader.shard = Shard(0, 2)
    return loader


def test_members_that_do_not_fit_are_refused_before_anything_is_trained(cases, streaming):
    first = cases.member(0)
    cohort = cases.cohort([first, first])
    other, halves = cases.loader(0), cases.loader(0)
    other.transform = dataclasses.replace(other.transform, padding=2)
    halves.batch_size = 16
    before = copy.deepcopy(cohort._branches[0].model.state_dict())
    start, one = first.state, torch.zeros(1)
    for change, reason in (
        ({"recipe": dataclasses.replace(RECIPE, momentum=0.5)}, "recipe"),
        ({"loader": other}, "augments"),
        ({"loader": halves}, "batches of 16.* 32"),
        ({"loader": sharded(cases.loader(0))}, "one rank's share"),
        ({"loader": streaming}, "StreamingTrainLoader"),
        ({"start_step": 26}, "start_step"),
        ({"state": {name: tensor for name, tensor in start.items() if name != "fc.bias"}}, "state lacks 'fc.bias'"),
        ({"state": {**start, "fc.scale": one}}, "state has 'fc.scale'"),
        ({"state": {**start, "fc.bias": one}}, r"state.* fc.bias has shape \(1,\), .*\(10,\)"),
        ({"optimizer_state": {"fc.scale": one}}, "optimizer state has 'fc.scale'"),
        ({"optimizer_state": {"fc.bias": one}}, r"optimizer state.* fc.bias has shape \(1,\), .*\(10,\)"),
    ):
        with pytest.raises(SettingError, match=f"^member 1: .*{reason}"):
            cohort.train([first, dataclasses.replace(first, **change)])
    for members in ([], [first] * 3):
        with pytest.raises(SettingError, match=f"{len(members)} members"):
            cohort.train(members)
    with pytest.raises(MaskError, match="network 1"):
        cohort.train([first, dataclasses.replace(first, mask={"fc.bias": one > 0})])
    assert_same(cohort._branches[0].model.state_dict(), before)


def test_momentum_for_a_recipe_without_is_refused(cases):
    recipe = dataclasses.replace(RECIPE, momentum=0.0)
    member = cases.member(0, recipe, optimizer_state={"fc.bias": torch.zeros(10)})
    with pytest.raises(SettingError, match=r"member 0: .*momentum"):
        cases.cohort([member]).train([member])


def test_a_network_left_in_eval_mode_is_trained_as_ever_next_time(cases):
    member = cases.member(0, start_step=20)
    cohort = cases.cohort([member, member])
    for _, model, _ in cohort.train([member, member]):
        model.eval()
    cases.assert_as_alone([member, cases.member(1, start_step=20)], cohort=cohort)


def test_a_run_that_another_has_overtaken_raises(cases):
    early, late = cases.member(0, start_step=22), cases.member(1, start_step=20)
    cohort = cases.cohort([early, late])
    stale = cohort.train([early, late])
    next(stale)
    newer = cohort.train([late, early])
    next(newer)
    with pytest.raises(SettingError, match="another run"):
        next(stale)
    ((place, model, result),) = newer
    state, expected = cases.alone(late, Seen())
    assert place == 0 and result == expected
    assert_same(model.state_dict(), state)


@pytest.mark.parametrize("step", [22, 26])
@pytest.mark.parametrize("what", ["train", "images_per_second"])
def test_a_run_that_its_own_watcher_overtakes_raises(cases, what, step):
    member = cases.member(0, start_step=20)
    cohort = cases.cohort([member])
    again = {"train": lambda: list(cohort.train([member])), "images_per_second": cohort.images_per_second}[what]
    watched = dataclasses.replace(member, on_step=lambda made, network: made == step and again())
    with pytest.raises(SettingError, match="another run"):
        list(cohort.train([watched]))
    cases.assert_as_alone([member], cohort=cohort)


def test_a_refused_run_leaves_the_one_before_in_peace(cases):
    members = [cases.member(0, start_step=22), cases.member(1, start_step=20)]
    cohort = cases.cohort(members)
    run = cohort.train(members)
    next(run)
    with pytest.raises(SettingError):
        cohort.train([])
    ((_, model, _),) = run
    assert_same(model.state_dict(), cases.alone(members[1], Seen())[0])


def test_algorithms_are_pinned_for_the_steps_and_for_nobody_else(cases):
    def pinned():
        return torch.backends.cudnn.deterministic

    inside, outside = [], []
    watched = [
        dataclasses.replace(cases.member(k, start_step=22 + k), on_step=lambda *_: outside.append(pinned()))
        for k in range(2)
    ]
    cohort = cases.cohort(watched)
    for branch in cohort._branches:
        branch.model.register_forward_pre_hook(lambda *_: inside.append(pinned()))
    assert not pinned()
    for _ in cohort.train(watched):
        outside.append(pinned())
    cohort.images_per_second()
    assert len(inside) > 7 and all(inside)
    assert len(outside) == 11 and not any(outside)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_cohort_that_is_stopped_goes_on_to_the_same_bits(cases, tmp_path, precision):
    masks, recipe = [None, cases.mask(1), cases.mask(2)], dataclasses.replace(RECIPE, precision=precision)
    members = [cases.member(k, recipe, mask=mask, start_step=4 * k) for k, mask in enumerate(masks)]
    whole = cases.together(members)

    class Stops(Signals):
        def end(self):
            raise InterruptedError

    # Stopped before the last epoch, and in it.
    for stop_at in (7, 21):
        signals = Stops()
        places = [Progress(tmp_path / str(k), 1e9, signals) for k in range(len(members))]
        for k, progress in enumerate(places):
            (tmp_path / str(k)).mkdir(exist_ok=True)
            members[k] = dataclasses.replace(members[k], saved=progress.restore())
        signals.trainings = len(members)

        def on_step(step, network, progress, signals=signals, stop_at=stop_at):
            if step == stop_at and not signals.stop:
                signals.asked, signals.stop = 1, True
            progress.keep(step, network.saved)

        stopping = [
            dataclasses.replace(m, on_step=functools.partial(on_step, progress=progress))
            for m, progress in zip(members, places, strict=True)
        ]
        with pytest.raises(InterruptedError):
            list(cases.cohort(stopping).train(stopping))
        members = [dataclasses.replace(m, saved=p.restore()) for m, p in zip(members, places, strict=True)]
    assert [member.saved.step for member in members] != [0, 4, 8]
    for (state, result, _), (expected, expected_result, _) in zip(cases.together(members), whole, strict=True):
        assert result == expected_result
        assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_a_step_that_cannot_be_captured_runs_eagerly_and_says_so(cases, monkeypatch, capsys):
    def refuse(step, branches):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr("sparselt.training.cohort.capture", refuse)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    members = [cases.member(seed) for seed in range(2)]
    cohort = cases.cohort(members, captured=True)
    assert "cannot record the training step" in capsys.readouterr().err
    for (state, result, _), (its_state, its_result, _) in zip(
        cases.together(members, cohort=cohort), cases.together(members), strict=True
    ):
        assert_same(state, its_state)
        assert result == its_result
