"""The memory counted before a training, against what real steps keep; what is said where it does not fit."""

import sys
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from optim_toys import Lion

from sparselt.errors import SettingError
from sparselt.experiments.needs import check_gpu_memory
from sparselt.experiments.where import Where, check_gpu, pool_of
from sparselt.models import build_model
from sparselt.optim import RECIPE_OPTIONS
from sparselt.reproduce import load_setting
from sparselt.training.fused_norm import fused_forward
from sparselt.training.loop import autocast, training_loss
from sparselt.training.memory import StepMemory, check_fits, step_memory

GB = 10**9


@pytest.fixture
def toy(monkeypatch):
    """A recipe with an optimizer of one buffer that the repository does not have."""
    monkeypatch.setitem(RECIPE_OPTIONS, "lion", ())
    monkeypatch.setitem(sys.modules, "sparselt.optim.lion", SimpleNamespace(OPTIMIZER=Lion))
    return load_setting("digits_resnet8", "smoke").changed(optimizer="lion", lr=1e-4)


def test_the_state_is_that_of_the_optimizer_whoever_wrote_it(toy):
    recipe = load_setting("digits_resnet8", "smoke").recipe
    state = {
        name: step_memory(replace(recipe, optimizer=name, **more), 10, 1, 8).state
        for name, more in {"sgd": {}, "adam": {}, "rmsprop": {"momentum": 0.0}}.items()
    }
    one = step_memory(toy.recipe, 10, 1, 8).state
    assert state == {"sgd": one, "adam": 2 * one, "rmsprop": one}
    both = replace(recipe, optimizer="rmsprop", momentum=0.9, centered=True)
    assert step_memory(both, 10, 1, 8).state == 3 * one


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_an_optimizer_without_a_rule_for_gpus_is_refused_on_one_before_anything_runs(toy, executor):
    with pytest.raises(SettingError, match="--device cuda: the optimizer lion has no rule for a GPU; use --device cpu"):
        pool_of(Where(device="cuda", executor=executor), toy, dry_run=True)


def really_kept(recipe, classes, channels, side, images) -> int:
    """The bytes that a real step on a CPU saves for its backward pass."""
    model = build_model(recipe.model, classes=classes, channels=channels, seed=0).train()
    forward = fused_forward(model) if recipe.fused_norm else model
    own = {tensor.data_ptr() for tensor in model.state_dict().values()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    pixels = torch.randn(images, channels, side, side).to(memory_format=torch.channels_last)
    labels = torch.zeros(images, dtype=torch.long)
    saving = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with saving, autocast(pixels.device, recipe.precision):
        loss = training_loss(forward(pixels), labels, recipe.techniques)
    found = sum(storage.nbytes() for storage in kept.values())
    loss.backward()
    return found


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "images", "fused"),
    [
        ("cifar10_resnet20", 32, False),
        ("cifar10_resnet20", 32, True),
        ("imagenet_resnet50", 4, False),
        ("imagenet_resnet50_mild", 4, False),
    ],
)
def test_the_count_is_what_a_real_step_saves(name, images, fused, precision):
    setting = load_setting(name, "paper")
    recipe = replace(setting.recipe, precision=precision, fused_norm=fused)
    shape = (setting.classes, setting.channels, setting.train_size)
    memory = step_memory(recipe, *shape)
    real = really_kept(recipe, *shape, images)
    assert memory.copies + images * memory.image == pytest.approx(real, rel=0.01)


def test_weights_state_and_batch_are_counted():
    setting = load_setting("imagenet_resnet50", "paper")
    network = build_model("resnet50", classes=1000, channels=3, seed=0)
    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    memory = step_memory(setting.recipe, 1000, 3, 224)
    assert (memory.weights, memory.state, memory.batch) == (weights, weights, 2048 * 3 * 224**2 * 4)
    averaged = load_setting("imagenet_resnet50_mild", "paper").recipe
    assert step_memory(averaged, 1000, 3, 176).state == 2 * weights
    adam = replace(load_setting("mnist_lenet").recipe, ranks=2)
    memory = step_memory(adam, 10, 1, 28)
    assert memory.state == 2 * memory.weights and memory.batch == adam.batch_size // 2 * 28**2 * 4


def test_the_papers_micro_batches_fit_80_gigabytes_and_one_does_not():
    setting = load_setting("imagenet_resnet50", "paper")
    memory = step_memory(setting.recipe, 1000, 3, 224)
    check_fits(setting.recipe, memory, 80 * GB)
    with pytest.raises(SettingError, match=r"micro_batches is 1: a part of 2048 images.*give --set micro_batches=2,"):
        check_fits(replace(setting.recipe, micro_batches=1), memory, 80 * GB)


RECIPE = replace(load_setting("imagenet_resnet50", "paper").recipe, batch_size=96, micro_batches=2)
MEMORY = StepMemory(weights=100, state=100, batch=50, copies=50, image=10)  # 400, and 10 an image


@pytest.mark.parametrize("free", [880, 881])
def test_a_step_that_just_fits_is_let_through(free):
    check_fits(RECIPE, MEMORY, free)


def test_a_step_that_does_not_fit_is_refused_with_the_bytes_and_the_smallest_number_that_fits():
    with pytest.raises(SettingError) as refused:
        check_fits(RECIPE, MEMORY, 879)
    text = str(refused.value)
    assert "a part of 48 images takes at least 880 bytes" in text and "10 an image and 400 for" in text
    assert "879 bytes are free" in text
    # Parts of 48 do not fit; parts of 32 (720 bytes) do, with a tenth of 879 to spare.
    assert "give --set micro_batches=3, whose parts take 720 bytes; batch norm then sees 32 images" in text


def test_the_number_that_is_advised_leaves_a_tenth_and_divides_the_ranks_share():
    with pytest.raises(SettingError, match="micro_batches=4, whose parts take 640 bytes"):
        check_fits(RECIPE, MEMORY, 799)  # parts of 32 images take 720, more than 0.9 · 799
    with pytest.raises(SettingError, match="micro_batches=3, whose parts take 560 bytes; batch norm then sees 16"):
        check_fits(replace(RECIPE, ranks=2), MEMORY, 639)


def test_a_gpu_too_small_for_one_image_is_told_so():
    with pytest.raises(SettingError, match="not even parts of one image fit, which take 410 bytes; choose a smaller"):
        check_fits(RECIPE, MEMORY, 400)


class OneGpu:
    """A pool whose worker has a part of one GPU; work is done in this process."""

    gpu_share = 0.5

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future


def test_a_run_asks_its_worker_for_the_memory_and_refuses_before_it_trains(bench, monkeypatch):
    setting = bench.setting()
    training = bench.lab().dense(0)
    memory = step_memory(setting.recipe, setting.classes, setting.channels, setting.train_size)
    images = (setting.train_count + setting.test_count) * setting.train_size**2
    needed = memory.of(setting.batch_size) + images
    monkeypatch.setattr("sparselt.data.loaders.free_bytes", lambda device: 2 * needed)
    check_gpu(setting, [training], OneGpu())
    monkeypatch.setattr("sparselt.data.loaders.free_bytes", lambda device: 2 * needed - 2)
    check_gpu(setting, [], OneGpu())
    with pytest.raises(SettingError, match=f"takes at least {memory.of(setting.batch_size):,} bytes"):
        check_gpu(setting, [training], OneGpu())


def test_a_network_that_cannot_run_without_data_is_left_to_the_training(bench, tmp_path, monkeypatch):
    (tmp_path / "reading_network.py").write_text(
        "import torch\n"
        "class Reading(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = torch.nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        return self.fc(x.flatten(1) * (2 if float(x.mean()) > 0 else 1))\n"
        "def reading(classes, channels):\n"
        "    return Reading()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    setting = bench.setting(model="reading_network:reading")
    with pytest.raises(SettingError, match="the memory of a step of reading_network:reading cannot be counted"):
        step_memory(setting.recipe, setting.classes, setting.channels, setting.train_size)
    check_gpu_memory(setting, [bench.lab(model="reading_network:reading").dense(0)], free=0)
