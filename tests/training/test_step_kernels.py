"""How many kernels a captured step of ResNet-20 has for each network: counted from its operators, not measured.

The step of a cohort runs on the CPU, and each operator counts as the kernels that it launches on a GPU: one, none for
those that only describe memory, more for those below. cuDNN may add kernels of its own to a convolution, to change a
layout or to fill a workspace; these are not counted. docs/kernels.md shows the table.
"""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton", reason="no Triton on this platform")

from sparselt.data import (
    PadCrop,
    ResidentData,
    ResidentTrainLoader,
    SyntheticImages,
    open_dataset,
    write_dataset,
)
from sparselt.kernels.norm_act.gpu import _Shape
from sparselt.models import build_model
from sparselt.training import cohort as cohorts
from sparselt.training.cohort import Cohort
from sparselt.training.forward import TrainingForward
from sparselt.training.recipe import Recipe
from sparselt.training.schedule import Schedule

BATCH, SIDE = 128, 32
aten, own = torch.ops.aten, torch.ops.sparselt
DESCRIBE = {
    aten.detach.default,
    aten.empty.memory_format,
    aten.expand.default,
    aten.split.Tensor,
    aten.t.default,
    aten.unsqueeze.default,
    aten.view.default,
}
ON_THE_HOST = {aten._local_scalar_dense.default}  # of augment's CPU implementation, which reads seed and epoch
KINDS = {
    aten.convolution.default: "convolution",
    aten.convolution_backward.default: "convolution backward",
    own.norm_act.default: "norm_act",
    own.norm_act_backward.default: "norm_act backward",
    aten.native_batch_norm.default: "batch norm",
    aten.native_batch_norm_backward.default: "batch norm backward",
    aten.relu_.default: "ReLU",
    aten.threshold_backward.default: "ReLU backward",
    aten.add.Tensor: "addition of gradients",
    aten.add_.Tensor: "addition in place",
    aten._to_copy.default: "cast",
}
OF_THE_OPTIMIZER = {"masked_sgd": 1, "learning rate": 1}  # one launch for all networks; one copy for each


def kernels_of(function, arguments) -> int:
    """The kernels that an operator launches on a GPU."""
    if function in DESCRIBE | ON_THE_HOST or function.namespace == "profiler":
        return 0
    if function is aten.convolution_backward.default:
        return sum(arguments[-1])  # one for the gradient of each of input, weight and bias
    if function is own.norm_act.default:
        return 2 if _Shape(arguments[0]).merged else 3
    if function is own.norm_act_backward.default:
        return 2 if _Shape(arguments[1]).merged else 3
    if function is aten.native_batch_norm.default:
        return 4  # bfloat16: sums, statistics, running statistics, output
    if function is aten.native_batch_norm_backward.default:
        return 3
    return 2 if function is aten.nll_loss_backward.default else 1  # that one fills its output first


class Kernels(TorchDispatchMode):
    """Counts kernels by kind."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.counts[KINDS.get(function, "other")] += kernels_of(function, arguments)
        return function(*arguments, **(options or {}))


@pytest.fixture(scope="module")
def loader(tmp_path_factory) -> ResidentTrainLoader:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pixels")
    write_dataset(SyntheticImages(330, 4, classes=10, height=SIDE, width=SIDE, storage="raw"), folder)
    pixels = ResidentData.read(open_dataset(folder))
    normal = pixels.manifest.normalization
    return ResidentTrainLoader(pixels, BATCH, 0, 0, PadCrop(4, True, normal.mean, normal.std, normal.scale), "cpu")


def counted(loader, networks: int, **options) -> Counter[str]:
    """The kernels of one step of a cohort, as its graph captures it."""
    recipe = Recipe("resnet20", BATCH, 4, Schedule("step", 0.1), precision="bfloat16", **options)
    models = [build_model("resnet20", classes=10, channels=3, seed=seed) for seed in range(networks)]
    cohort = Cohort([model.to(memory_format=torch.channels_last) for model in models], recipe, loader)
    for branch in cohort._branches:
        branch.set_idle()
    cohort._step(cohort._branches)
    with Kernels() as kernels:
        cohort._step(cohort._branches)
    kernels.counts["optimizer"] = OF_THE_OPTIMIZER["masked_sgd"] + networks * OF_THE_OPTIMIZER["learning rate"]
    return kernels.counts


def test_a_network_of_a_captured_step_has_at_most_190_kernels(loader):
    counts = counted(loader, 1, fused_norm=True)
    assert counts.total() <= 190, counts
    assert counts["norm_act"] == counts["norm_act backward"] == 2 * 21
    assert counts["convolution"] == 21 and counts["convolution backward"] == 2 * 21 - 1
    # The images, the outputs and their gradient: no weight and no gradient of one.
    assert counts["cast"] == 3
    # The position in the epoch: no norm counts a batch.
    assert counts["addition in place"] == 1


def test_networks_of_a_cohort_share_the_optimizers_launch_and_nothing_else(loader):
    one, two = (counted(loader, networks, fused_norm=True).total() for networks in (1, 2))
    assert two == 2 * one - 1


def test_torchs_own_way_has_twice_as_many(loader, monkeypatch):
    monkeypatch.setattr(cohorts, "training_forwards", lambda models, *_: list(map(TrainingForward, models)))
    counts = counted(loader, 1)
    assert counts["cast"] == 3 + 2 * 23 and counts["addition in place"] == 1 + 21 + 9
    assert counts.total() >= 2 * 175
