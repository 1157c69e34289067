"""The memory and the disk that a run takes, reckoned from its plan before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparselt.experiments.setting import Setting
from sparselt.stages.data import Pixels, PrepareDataset
from sparselt.stages.masks import MakesMask
from sparselt.stages.stage import Stage
from sparselt.stages.train import Train

# A step's state of each weight, in buffers; RMSprop's is that of the centered rule with momentum.
_BUFFERS = {"sgd": 1, "adam": 2, "adamw": 2, "rmsprop": 3}
_SAVES = 2  # of an unfinished training, see `sparselt.training.progress`


@dataclass(frozen=True)
class Needs:
    """An estimate in bytes.

    training: memory of one training: weights, gradients, optimizer state, and what a step keeps for its backward pass.
    data: memory of the images, if they are kept there; processes of one machine share it.
    disk: what the missing stages write, and the saves of the trainings under way.
    """

    training: int
    data: int
    disk: int


def needs_of(setting: Setting, missing: Sequence[Stage], workers: int) -> Needs:
    """The memory and disk that the missing stages need, with `workers` trainings at a time."""
    weights, kept = _network(setting)
    state = weights * _BUFFERS[setting.optimizer]
    images = (setting.train_count + setting.test_count) * setting.channels * setting.train_size**2
    resident = setting.engine == "resident"
    disk = min(workers, sum(isinstance(stage, Train) for stage in missing)) * _SAVES * (weights + state)
    for stage in missing:
        if isinstance(stage, Train):
            files = [name for name in stage.outputs if name.endswith(".safetensors")]
            momenta = sum(name.startswith("momentum-") for name in files)
            disk += (len(files) - momenta) * weights + momenta * state
        elif isinstance(stage, MakesMask):
            disk += weights // 32  # one bit a weight
        elif isinstance(stage, Pixels) or (isinstance(stage, PrepareDataset) and stage.source is not None):
            disk += images
    return Needs(setting.ranks * (2 * weights + state) + kept, images if resident else 0, disk)


def _network(setting: Setting) -> tuple[int, int]:
    """The bytes of weights and buffers, and the bytes that a training step keeps for its backward pass.

    The network runs on torch's meta device, which computes shapes only.
    """
    import torch

    from sparselt.models import build_model

    network = build_model(setting.model, classes=setting.classes, channels=setting.channels, seed=0)
    network = network.to("meta").train()
    own = {tensor.untyped_storage()._cdata for tensor in network.state_dict(keep_vars=True).values()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no other takes its place

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    count = -(-setting.batch_size // setting.micro_batches)
    images = torch.empty(count, setting.channels, setting.train_size, setting.train_size, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    activations = sum(storage.nbytes() for storage in kept.values())
    # bfloat16 takes half the bytes, and autocast adds a bfloat16 copy of the weights.
    return weights, (activations + weights) // 2 if setting.precision == "bfloat16" else activations
