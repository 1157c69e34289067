"""One training step whose order, learning rate and seeds live in device tensors, so that a CUDA graph can replay it.

The step is captured once (`captured`) and replayed for every batch, epoch and level. On a CPU the same code runs
eagerly and gives the same bits as `loop.train`.
"""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sparselt.data.batch import drawn
from sparselt.data.order import batches_of, sample_order
from sparselt.training.loop import gradients

if TYPE_CHECKING:
    from sparselt.data import ResidentTrainLoader
    from sparselt.training.forward import TrainingForward
    from sparselt.training.progress import Saved
    from sparselt.training.recipe import Recipe

_SPARE = 24  # steps outside a training: the warm-up of a capture, or timed steps


class Branch:
    """A network, the resident data it trains on, and its position in the training.

    model: on the loader's device. `load` writes another start into the same memory, where a captured step reads it.
    forward: the model's forward pass.
    rate: float64 [] on the loader's device; gets the learning rate of each step.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: "TrainingForward",
        rate: Tensor,
        loader: "ResidentTrainLoader",
        recipe: "Recipe",
    ):
        device = loader.device
        self.model, self.recipe = model.train(), recipe
        self.forward, self.rate = forward, rate
        self._images, self._labels, self._transform = loader._images, loader._labels, loader.transform
        # A network that ends before others of its cohort continues at rate 0, for at most as many steps again.
        self._rates = torch.zeros(2 * recipe.steps + _SPARE, dtype=torch.float64, device=device)
        self._clock = torch.zeros(1, dtype=torch.int64, device=device)
        self._epoch, self._seed = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))
        self._order = torch.zeros(loader.steps_per_epoch, recipe.batch_size, dtype=torch.int64, device=device)
        self._losses = torch.zeros(loader.steps_per_epoch, device=device)

    def load(
        self, state: Mapping[str, Tensor], loader: "ResidentTrainLoader", recipe: "Recipe", start_step: int
    ) -> None:
        """Starts a training at `start_step`, with weights and buffers `state`, in train mode.

        loader, recipe: may differ from the previous ones only in the seeds and the schedule.
        """
        self.model.train()
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                tensor.copy_(state[name])
        rates = [recipe.schedule.learning_rate(step, recipe.steps) for step in range(recipe.steps)]
        _send(np.array(rates + [0.0] * (recipe.steps + _SPARE)), self._rates)
        self._loader, self.start_step, self.step = loader, start_step, start_step
        self._clock.fill_(start_step)
        seed = loader.augmentation_seed
        self._seed.fill_(seed - 2**64 if seed >= 2**63 else seed)
        self._losses.zero_()
        self._begun = False  # the order of the first epoch has still to be sent

    def go_on(self, saved: "Saved") -> None:
        """Continues the loaded training from a save."""
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                tensor.copy_(saved.model[name])
        self.step = saved.step
        self._clock.fill_(saved.step)
        places = torch.arange(saved.step - len(saved.losses), saved.step) % len(self._order)
        self._losses[places] = saved.losses.to(self._losses.device)

    def set_idle(self) -> None:
        """Takes the branch out of training. A captured step still computes it; the result is not used."""
        self.model.train()
        self._clock.zero_()
        self._rates.zero_()

    @property
    def done(self) -> bool:
        """Whether the training has reached its end."""
        return self.step == self.recipe.steps

    def begin_step(self) -> None:
        """Prepares a step on the host without waiting for the device. Sends the order once an epoch."""
        epoch, position = divmod(self.step, len(self._order))
        if position == 0 or not self._begun:
            self._begun = True
            _send(_batches(self._loader.order_seed, epoch, self._loader.count, self.recipe.batch_size), self._order)
            self._epoch.fill_(epoch)
        self.step += 1
        self.forward.count(self.recipe.batch_size, self.recipe.micro_batches)

    def compute(self) -> None:
        """Augments the next batch, runs forward and backward pass, and sets `rate` to the step's learning rate.

        Touches only this branch's memory, and makes no decision on the host.
        """
        position = self._clock % len(self._order)
        indices = self._order.index_select(0, position).view(-1)
        images = drawn(self._images, indices, self._transform, seed=self._seed, epoch=self._epoch)
        self.rate.copy_(self._rates.index_select(0, self._clock).view(()))
        loss = gradients(self.forward, images, self._labels.index_select(0, indices), self.recipe)
        self._losses.index_copy_(0, position, loss.view(1))
        self._clock += 1

    def last_losses(self) -> Tensor:
        """float32: the batch losses of the last epoch in order, or of all steps if fewer. Waits for a GPU."""
        return self._losses_since(max(self.start_step, self.step - len(self._order)))

    def losses_so_far(self) -> Tensor:
        """float32: the losses of those batches of the training's last epoch that have been made."""
        return self._losses_since(max(self.start_step, self.recipe.steps - len(self._order)))

    def _losses_since(self, step: int) -> Tensor:
        return self._losses.cpu()[torch.arange(min(step, self.step), self.step) % len(self._order)]


def _send(array: np.ndarray, to: Tensor) -> None:
    """Copies the array into a tensor of its shape. Does not wait for a GPU."""
    host = torch.from_numpy(array)
    to.copy_(host.pin_memory() if to.is_cuda else host, non_blocking=True)


# Rewind points and levels of a replicate share their order. One takes 5 ms for 50,000 samples, 0.2 s for 1.28 million
# (one core of an EPYC), once in an epoch of hundreds of steps, so more are not kept, and none is made ahead.
@functools.lru_cache(maxsize=16)
def _batches(seed: int, epoch: int, count: int, batch_size: int) -> np.ndarray:
    """int64 [steps, batch_size]: the samples of each batch of an epoch."""
    return batches_of(sample_order(seed, epoch, count), batch_size)
