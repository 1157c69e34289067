"""Errors on training images that are held out, instead of the test images."""

import pytest
import torch
from stage_cases import task

from sparselt.data import ResidentData
from sparselt.errors import SettingError
from sparselt.experiments.equal_epochs import equal_epochs
from sparselt.models import build_model
from sparselt.reproduce import load_setting
from sparselt.training.loop import evaluate


def test_a_network_is_trained_on_the_others_and_evaluated_on_the_held_out(bench):
    lab = bench.lab(validation_count=200)
    trained = lab.dense(0)
    bench.run(trained)
    divided = ResidentData.open(bench.path(trained.test_pixels).parent)
    assert (divided.count("train"), divided.count("test")) == (1097, 200)
    at_hand = task(trained, bench.store.root, {name: bench.path(file) for name, file in trained.inputs.items()})
    batches = list(trained.batches(at_hand).epoch(0))
    assert torch.cat([batch.indices for batch in batches]).max() < 1097
    assert len(batches) == lab.setting.steps_per_epoch == 1097 // 64
    model = build_model("resnet8", classes=10, channels=1, seed=0)
    model.load_state_dict(bench.load(trained.final))
    images = trained.eval_images(at_hand, threads=1)
    assert images.count == 200
    measured = bench.read(trained.measured)
    assert (measured.test_error, measured.test_loss) == evaluate(model, images)


def test_without_held_out_images_no_stage_changes(bench):
    assert bench.lab(validation_count=0).dense(0).key == bench.lab().dense(0).key != _held_out(bench).dense(0).key


def test_which_images_are_held_out_follows_from_the_seed(bench):
    keys = {bench.lab(validation_count=200, seed=seed).dense(0).test_pixels.stage.key for seed in (0, 1)}
    assert len(keys) == 2


def test_epochs_are_those_of_the_images_that_are_left(bench):
    setting = bench.setting(steps=64, milestones=(32,), validation_count=273)
    assert setting.steps_per_epoch == 16
    assert setting.with_values(["warmup_steps=2ep"]).warmup_steps == 32
    assert equal_epochs(_held_out(bench, 273, steps=64, milestones=(32,)), 128).setting.steps == 32


def _held_out(bench, count=200, **changes):
    return bench.lab(validation_count=count, **changes)


@pytest.mark.parametrize(
    ("count", "words"), [(1290, "batch_size is 64, more than the 7"), (-1, "validation_count is -1")]
)
def test_too_many_held_out_images_are_refused(bench, count, words):
    with pytest.raises(SettingError, match=words):
        bench.setting(validation_count=count)


def test_more_held_out_images_than_there_are_are_refused_by_name(bench):
    with pytest.raises(SettingError, match="validation_count is 1,298; expected at most train_count, 1,297"):
        bench.setting().with_values(["validation_count=1298"])


def test_a_setting_that_streams_holds_out_nothing():
    with pytest.raises(SettingError, match="images are held out in memory only, and imagenet_resnet50 streams"):
        load_setting("imagenet_resnet50", "smoke").changed(validation_count=64).checked()
