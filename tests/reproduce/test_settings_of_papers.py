"""Every setting at every scale: what it can run, planned without running it."""

import pytest

from sparselt.experiments import EXPERIMENTS, MAIN, Lab
from sparselt.reproduce import SCALES, SETTINGS, load_setting
from sparselt.reproduce.cifar10_resnet20 import OF_0_1_0
from sparselt.runs.plan import Plan

ALL = {"landscape", "adaptive", "flatness", "retraining", "siblings", "stability", "rewind_to_init"}
OF_THEIR_OWN = {
    "cifar10_resnet20": {"landscape", "adaptive", "flatness", "siblings", "retraining"},
    "cifar10_resnet20_stabilizing": {"stability"},
    "cifar10_resnet20_maene": {"rewind_to_init"},
    "cifar10_vgg19": {"stability"},
    "cifar10_conv4": {"rewind_to_init"},
    "cifar100_resnet18": {"landscape", "adaptive", "flatness", "retraining"},
    "imagenet_resnet50": {"landscape", "adaptive", "flatness"},
    "imagenet_resnet50_mild": {"landscape", "adaptive", "flatness"},
    "imagenet_resnet50_stabilizing": {"stability"},
    "imagenet_resnet50_iterative": {"stability"},
    "imagenet_resnet50_maene": {"rewind_to_init"},
    "imagenet_inception_v3": {"stability"},
    "imagenet_squeezenet": {"stability"},
    "mnist_lenet": {"stability"},
    "mnist_lenet_maene": {"rewind_to_init"},
    "fashion_mnist_lenet": {"stability"},
    "fashion_mnist_resnet20": ALL,
    "digits_resnet8": ALL,
}
NO_PAPERS_OWN = {"digits_resnet8", "fashion_mnist_resnet20"}


WITH_0_1_0 = {"cifar10_resnet20", "cifar10_resnet20_stabilizing", "cifar10_resnet20_maene", "cifar100_resnet18"}
WITH_0_1_0 |= {"imagenet_resnet50", "imagenet_resnet50_mild"}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", SETTINGS)
def test_every_scale_runs_the_experiments_of_its_setting(name, scale):
    setting = load_setting(name, scale).checked()
    assert (setting.name, setting.scale) == (name, scale)
    runs = {experiment for experiment, driver in EXPERIMENTS.items() if not driver.unsupported_reason(setting)}
    assert name in OF_THEIR_OWN, f"say above which experiments {name} runs, and whether it is no paper's own"
    assert runs == OF_THEIR_OWN[name] | {"imp", "connectivity"}
    # What `checked` left out of a grid would be a number in the setting's file that nothing runs.
    assert setting.options == load_setting(name, scale).options


@pytest.mark.parametrize("scale", ["mini", "smoke"])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_main_findings_take_no_more_trainings_than_all_experiments(name, scale):
    setting = load_setting(name, scale)

    def trainings(setting, names):
        lab = Lab(setting.checked())
        return len(Plan(stage for n in names for m in EXPERIMENTS[n](lab) for stage in m.stages).trainings())

    assert trainings(setting.changed(**setting.main_values), MAIN) <= trainings(setting, EXPERIMENTS)


def test_only_scale_paper_follows_the_authors_code_in_what_version_0_1_0_chose_itself():
    for name in set(SETTINGS) - NO_PAPERS_OWN:
        paper, mini, smoke = (load_setting(name, scale) for scale in ("paper", "mini", "smoke"))
        assert (paper.rule, paper.eval_dtype) == ("open_lth", "float32"), name
        for scaled in (mini, smoke) if name in WITH_0_1_0 else ():
            assert {field: getattr(scaled, field) for field in OF_0_1_0} == OF_0_1_0
            assert "version 0.1.0" in scaled.sources["rule"]
            assert not scaled.differences


def test_paper_settings_start_where_the_authors_code_does():
    starts = {name: (s.initialization, s.norm_scale) for name in SETTINGS for s in [load_setting(name, "paper")]}
    assert {name for name, start in starts.items() if start == ("kaiming_normal", "uniform")} == {
        "cifar10_resnet20",
        "cifar10_resnet20_stabilizing",
        "cifar10_resnet20_maene",
        "cifar10_vgg19",
        "cifar10_conv4",
    }
    assert starts["cifar100_resnet18"] == ("low_res", "ones")
    assert starts["imagenet_resnet50"] == starts["digits_resnet8"] == ("torch", "ones")


def test_recipes_of_different_papers_are_different_settings():
    names = ("cifar10_resnet20", "cifar10_resnet20_stabilizing", "cifar10_resnet20_maene")
    paul, frankle, maene = (load_setting(name, "paper") for name in names)
    assert (frankle.steps, frankle.milestones, frankle.lr) == (30_000, (20_000, 25_000), 0.1)
    assert (maene.steps, maene.milestones) == (85 * 390, (56 * 390, 71 * 390))
    assert (maene.weight_decay, maene.levels, maene.rewind_steps) == (1e-5, 25, (0,))
    assert len({setting.recipe for setting in (paul, frankle, maene)}) == 3
