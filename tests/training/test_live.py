"""Trainings that compute their live weights alone, against trainings by torch."""

import dataclasses

import pytest
import torch

from sparselt import Mask, magnitude_prune
from sparselt.data.batch import Batch
from sparselt.errors import SettingError
from sparselt.models import build_model
from sparselt.optim import build_optimizer
from sparselt.training import loop
from sparselt.training.live import density_of, live_step
from sparselt.training.progress import Progress
from sparselt.training.recipe import Recipe, Techniques
from sparselt.training.repulsion import Repulsion
from sparselt.training.schedule import Schedule

BATCH, STEPS = 64, 20
RECIPE = Recipe("resnet8", BATCH, STEPS, Schedule("step", 0.05))


class Loader:
    """Noisy images whose brightness tells the class."""

    steps_per_epoch = 10

    def epoch(self, epoch: int, start_step: int = 0):
        def batches():
            for step in range(start_step, self.steps_per_epoch):
                generator = torch.Generator().manual_seed(1000 * epoch + step)
                labels = torch.randint(10, (BATCH,), generator=generator)
                images = torch.randn(BATCH, 1, 8, 8, generator=generator) + (labels.view(-1, 1, 1, 1) - 4.5) / 3
                yield Batch(images.to(memory_format=torch.channels_last), labels, torch.arange(BATCH))

        return batches()


def start(density: float):
    model = build_model("resnet8", classes=10, channels=1, seed=0)
    mask = magnitude_prune(model, Mask.ones_like(model), fraction=1 - density) if density < 1 else None
    if mask is not None:
        mask.apply_(model)
    return model, mask


def trained(recipe: Recipe, density: float, **options):
    model, mask = start(density)
    optimizer = build_optimizer(recipe, model.named_parameters(), mask)
    measured = loop.train(model, optimizer, Loader(), recipe, seed=3, **options)
    return measured, model, mask


def repelled(recipe: Recipe, density: float):
    solution, mask = start(density)
    penalty = Repulsion([dict(solution.named_parameters())], mask or Mask.ones_like(solution), 2.0)
    return trained(recipe, density, penalty=penalty)


RECIPES = {
    "plain": RECIPE,
    "adam": dataclasses.replace(RECIPE, optimizer="adam", schedule=Schedule("step", 0.003)),
    "label smoothing and average": dataclasses.replace(
        RECIPE, techniques=Techniques(label_smoothing=0.1, ema_half_life=5)
    ),
}


@pytest.mark.parametrize("density", [1.0, 0.3])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_trainings_end_where_torchs_do(recipe, density):
    ours, model, mask = trained(dataclasses.replace(recipe, sparse_up_to=1.0), density)
    theirs, other, _ = trained(recipe, density)
    assert ours.train_loss == pytest.approx(theirs.train_loss, rel=0.02) and ours.train_loss < 1.9
    images, labels = next(iter(Loader().epoch(9)))[:2]
    outputs, others = (loop.evaluate(network, [(images, labels)])[1] for network in (model, other))
    assert outputs == pytest.approx(others, rel=0.05)  # in eval mode: weights and statistics are where torch reads them
    for name, parameter in model.named_parameters():
        assert mask is None or name not in mask or not parameter[~mask[name]].any()


class Doubles(Loader):
    def epoch(self, epoch: int, start_step: int = 0):
        return (batch._replace(images=batch.images.double()) for batch in list(super().epoch(epoch, start_step)))


@pytest.mark.parametrize("density", [1.0, 0.3])
def test_in_float64_whole_trainings_are_torchs(density):
    ends = []
    for up_to in (0.0, 1.0):
        model, mask = start(density)
        recipe = dataclasses.replace(RECIPE, sparse_up_to=up_to)
        optimizer = build_optimizer(recipe, model.double().named_parameters(), mask)
        loss = loop.train(model, optimizer, Doubles(), recipe).train_loss
        ends.append((loss, model.state_dict()))
    (loss, ours), (expected, theirs) = ends[1], ends[0]
    assert loss == pytest.approx(expected, rel=1e-6)  # torch takes the loss in float32
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-6)


def test_a_repelling_loss_adds_to_the_gradients():
    live = dataclasses.replace(RECIPE, sparse_up_to=1.0)
    assert repelled(live, 0.3)[0].train_loss == pytest.approx(repelled(RECIPE, 0.3)[0].train_loss, rel=0.02)
    ours, theirs = (dict(repelled(recipe, 0.3)[1].named_parameters()) for recipe in (live, RECIPE))
    plain = dict(trained(live, 0.3)[1].named_parameters())
    name = "blocks.2.conv2.weight"
    assert (ours[name] - theirs[name]).norm() < 0.2 * (ours[name] - plain[name]).norm()


def test_two_trainings_and_one_that_stopped_have_equal_bits(tmp_path):
    from test_progress import Stopped, Stops

    recipe = dataclasses.replace(RECIPE, sparse_up_to=1.0)
    first, again = (trained(recipe, 0.3)[1].state_dict() for _ in range(2))
    signals = Stops()

    def on_step(step):
        if step == 13:
            signals.asked, signals.stop = 1, True

    with pytest.raises(Stopped):
        trained(recipe, 0.3, on_step=on_step, progress=Progress(tmp_path, 1e9, signals))
    continued = trained(recipe, 0.3, progress=Progress(tmp_path, 1e9, Stops()))[1].state_dict()
    assert all(torch.equal(first[name], again[name]) and torch.equal(first[name], continued[name]) for name in first)


def test_the_density_of_the_mask_decides():
    model, mask = start(0.3)
    recipe = dataclasses.replace(RECIPE, sparse_up_to=density_of(mask))
    assert live_step(model, mask, recipe) is not None
    assert live_step(model, mask, dataclasses.replace(RECIPE, sparse_up_to=density_of(mask) - 1e-6)) is None
    assert live_step(model, None, recipe) is None
    assert live_step(model, None, dataclasses.replace(RECIPE, sparse_up_to=1.0)) is not None


REFUSED = {
    "these techniques": {"techniques": Techniques(bce=True)},
    "one image size": {"techniques": Techniques(progressive_resizing=True)},
    "micro_batches is 2": {"micro_batches": 2},
    "ranks is 2": {"ranks": 2},
    "compile is true": {"compile": True},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_recipes_that_have_no_such_step_are_refused(reason):
    model, mask = start(0.3)
    with pytest.raises(SettingError, match=f"sparse_up_to is 1, but .*{reason}"):
        live_step(model, mask, dataclasses.replace(RECIPE, sparse_up_to=1.0, **REFUSED[reason]))


def test_a_network_on_a_device_is_refused():
    model = build_model("resnet8", classes=10, channels=1, seed=0).to("meta")
    with pytest.raises(SettingError, match="the network is on meta"):
        live_step(model, None, dataclasses.replace(RECIPE, sparse_up_to=1.0))
