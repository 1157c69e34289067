"""The memory that a training step takes, counted on tensors without data before anything is trained."""

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sparselt.errors import SettingError
from sparselt.models import build_model
from sparselt.optim import operation_of
from sparselt.training.fused_norm import fused_forward
from sparselt.training.loop import autocast, training_loss
from sparselt.training.recipe import Recipe

_COUNTED = (2, 3)  # images: the bytes kept grow by the same amount with each
_ADVISED = 0.9  # of the free memory, because libraries take workspaces, and the allocator's blocks have gaps


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one training, or of one of its ranks, on its device.

    weights: parameters and buffers. state: the optimizer's. batch: the images of a step, float32.
    copies: what the backward pass needs whatever the number of images, such as bfloat16 copies of the weights.
    image: what it needs for each image of a micro-batch.
    """

    weights: int
    state: int
    batch: int
    copies: int
    image: int

    @property
    def fixed(self) -> int:
        """All that does not depend on the size of a micro-batch: weights, gradients, state, copies and the batch."""
        return 2 * self.weights + self.state + self.copies + self.batch

    def of(self, images: int) -> int:
        """The memory of a step whose micro-batches have so many images.

        At least so much is needed: workspaces of libraries and the gradients of activations come on top.
        """
        return self.fixed + images * self.image


def step_memory(recipe: Recipe, classes: int, channels: int, side: int) -> StepMemory:
    """The memory of a step of the recipe on images of `side` pixels.

    The forward pass runs on torch's fake tensors, which compute shapes and types only; what autograd saves is counted,
    each storage once. On a GPU the operators save the same tensors. It is counted without `torch.compile`, which saves
    less. This has been compared with real steps on a CPU, not on a GPU.

    Raises:
        SettingError: the network cannot run on tensors without data.
    """
    return _step_memory(replace(recipe, schedule=None), classes, channels, side)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=16)
def _step_memory(recipe: Recipe, classes: int, channels: int, side: int) -> StepMemory:
    model = build_model(recipe.model, classes=classes, channels=channels, seed=0).train()
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    forward = fused_forward(model) if recipe.fused_norm else model
    try:
        few, more = (_kept(model, forward, recipe, (images, channels, side, side)) for images in _COUNTED)
    except (RuntimeError, TypeError, NotImplementedError) as error:  # a network may read numbers in its forward pass
        raise SettingError(f"the memory of a step of {recipe.model} cannot be counted: {error}") from error
    image = (more - few) // (_COUNTED[1] - _COUNTED[0])
    state = weights * (operation_of(recipe).buffers + bool(recipe.techniques.ema_half_life))
    batch = recipe.batch_size // recipe.ranks * channels * side**2 * 4
    return StepMemory(weights, state, batch, few - _COUNTED[0] * image, image)


def _kept(model: nn.Module, forward: nn.Module, recipe: Recipe, shape: tuple[int, ...]) -> int:
    """The bytes that autograd saves in a step on images of this shape, without weights and buffers."""
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no other takes its place
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:  # such as constants that a network keeps
        tensors = [*model.named_parameters(), *model.named_buffers()]
        state: dict[str, Tensor] = {name: fake.from_tensor(tensor) for name, tensor in tensors}
        own = {tensor.untyped_storage()._cdata for tensor in state.values()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage
            return tensor

        images = torch.empty(shape).to(memory_format=torch.channels_last)
        labels = torch.zeros(len(images), dtype=torch.long)
        saving = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with saving, autocast(images.device, recipe.precision):
            training_loss(torch.func.functional_call(forward, state, images), labels, recipe.techniques)
        return sum(storage.nbytes() for storage in kept.values())


def check_fits(recipe: Recipe, memory: StepMemory, free: int) -> None:
    """Checks that one micro-batch fits `free` bytes of a device.

    Raises:
        SettingError: it does not. The error names the bytes, and the smallest number of micro-batches that fits with a
            tenth of the memory to spare; or says that not even one image does.
    """
    images = recipe.batch_size // recipe.ranks
    part = images // recipe.micro_batches
    if memory.of(part) <= free:
        return
    numbers = [n for n in range(recipe.micro_batches + 1, images + 1) if images % n == 0]
    fitting = next((n for n in numbers if memory.of(images // n) <= _ADVISED * free), None)
    if fitting is None:
        advice = (
            f"not even parts of one image fit, which take {memory.of(1):,} bytes; choose a smaller batch_size, another "
            "network, or a GPU with more memory"
        )
    else:
        advice = (
            f"give --set micro_batches={fitting}, whose parts take {memory.of(images // fitting):,} bytes; batch norm "
            f"then sees {images // fitting} images, so it is another protocol"
        )
    raise SettingError(
        f"micro_batches is {recipe.micro_batches}: a part of {part} images takes at least {memory.of(part):,} bytes of "
        f"GPU memory, {memory.image:,} an image and {memory.fixed:,} for the network, the optimizer and the batch; "
        f"{free:,} bytes are free; {advice}"
    )
