"""The training loop and the evaluation of one network."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparselt.errors import SettingError, TrainingError
from sparselt.models.winograd import winograd_
from sparselt.optim import MaskedOptimizer
from sparselt.training.checkpoint import load_state, state_of
from sparselt.training.forward import training_forward
from sparselt.training.fused_norm import fused_forward
from sparselt.training.live import live_step
from sparselt.training.progress import Progress, Saved, losses_of
from sparselt.training.ranks import Ranks
from sparselt.training.recipe import PLAIN, Recipe, Techniques, derive_seed, training_side
from sparselt.training.techniques import WeightAverage, resize, smoothed_bce


@dataclass(frozen=True)
class Trained:
    """Measurements of a training: mean and standard deviation of the last epoch's batch losses (nats); steps made."""

    train_loss: float
    train_loss_std: float
    steps: int


def train(
    model: nn.Module,
    optimizer: MaskedOptimizer,
    loader,
    recipe: Recipe,
    *,
    start_step: int = 0,
    on_step: Callable[[int], None] = lambda step: None,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    progress: Progress | None = None,
    seed: int | None = None,
    ranks: Ranks | None = None,
) -> Trained:
    """Trains `model` in place from `start_step` to the end of the recipe.

    Schedule and data both start at `start_step`: the first batch is the one that a training from scratch sees at that
    step. With a weight average, the average starts here and replaces the network at the end; `on_step` always sees the
    network itself.

    Args:
        model: the network, already rewound and masked.
        optimizer: from `sparselt.optim.build_optimizer`, over the model's named parameters.
        loader: `.steps_per_epoch` and `.epoch(e, start_step)`, see `sparselt.data`.
        on_step: called with the number of steps that have been made, before each step and once at the end.
        penalty: a differentiable scalar that every step adds to the loss, such as `Repulsion`. It is computed once a
            step, in full precision, whatever the micro-batches; the returned losses do not include it.
        progress: where the training is saved now and then. It goes on from the newest save, if there is one.
        seed: what the network draws in a step, as dropout does, follows from this seed and the step, and on other ranks
            than the first from the rank. None: from torch's generators as they are.
        ranks: the processes that train the network together, this one among them; None: this one alone. Each reads its
            share of every batch from `loader`.

    Raises:
        TrainingError: the loss of the last epoch is not finite.
    """
    model.train()
    techniques = recipe.techniques
    average = WeightAverage(techniques.ema_half_life) if techniques.ema_half_life else None
    first_of_last_epoch = max(start_step, recipe.steps - loader.steps_per_epoch)
    last_losses: list[Tensor] = []
    (own,) = forward_passes([model], recipe)
    live = live_step(model, optimizer.mask, recipe)
    step = start_step

    def state() -> Saved:
        averaged = {} if average is None else average.state(model)
        return Saved(step, model.state_dict(), state_of(model, optimizer), losses_of(last_losses), averaged)

    if progress is not None and (saved := progress.restore()):
        step, last_losses = saved.step, list(saved.losses.to(next(model.parameters()).device))
        model.load_state_dict(saved.model)
        load_state(model, optimizer, saved.optimizer)
        if average is not None:
            average.load(model, saved.average)
    alone = ranks is None and penalty is None and live is None
    with training_forward(model, own, recipe, optimizer, alone) as forward:
        for images, labels in _batches(loader, step, recipe.steps):
            on_step(step)
            if progress is not None:
                progress.keep(step, state)
            if seed is not None:
                rank = [ranks.rank] if ranks is not None and ranks.rank else []
                _seed_draws(derive_seed(seed, "draws", step, *rank), images.device)
            for group in optimizer.param_groups:
                group["lr"] = recipe.schedule.learning_rate(step, recipe.steps)
            if techniques.progressive_resizing:
                images = resize(images, training_side(images.shape[2], step, recipe.steps))
            if live is not None:
                loss = live(images, labels)  # overwrites all gradients
            else:
                optimizer.refresh_copies()
                optimizer.zero_grad()
                loss = gradients(forward, images, labels, recipe, 1.0 if ranks is None else ranks.share(len(images)))
                forward.count(len(images), recipe.micro_batches)
            if ranks is not None:
                loss = ranks.add_up(loss)
            if penalty is not None:
                penalty(model).backward()
            optimizer.step()
            if step >= first_of_last_epoch:
                last_losses.append(loss)
            step += 1
            if average is not None:
                average.update(model, step)
    on_step(step)
    if average is not None:
        average.copy_to(model)
    return trained(torch.stack(last_losses), step - start_step, step)


def trained(last_losses: Tensor, steps: int, step: int) -> Trained:
    """The measurements of a training that ends at `step` after `steps` steps. last_losses: for each last-epoch batch.

    Raises:
        TrainingError: one of them is not finite.
    """
    losses = last_losses.double().cpu()
    if not torch.isfinite(losses).all():
        raise TrainingError(
            f"the training diverged: its loss is {losses[-1].item()} at step {step}; lower the learning rate"
        )
    std = losses.std().item() if len(losses) > 1 else 0.0
    return Trained(train_loss=losses.mean().item(), train_loss_std=std, steps=steps)


def training_loss(outputs: Tensor | tuple[Tensor, Tensor], labels: Tensor, techniques: Techniques = PLAIN) -> Tensor:
    """The mean loss (nats) of outputs [N, classes]: cross-entropy, or `smoothed_bce` if the techniques say so.

    The loss of an auxiliary classifier, which Inception-v3 has in training, counts 0.4. This is the weight in
    TensorFlow-Slim's implementation of Szegedy et al. 2016; the paper does not give it.
    """
    if not isinstance(outputs, Tensor):
        main, auxiliary = outputs
        return training_loss(main, labels, techniques) + 0.4 * training_loss(auxiliary, labels, techniques)
    if techniques.bce:
        return smoothed_bce(outputs.float(), labels, techniques.label_smoothing)
    return F.cross_entropy(outputs.float(), labels, label_smoothing=techniques.label_smoothing)


def gradients(
    forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, recipe: Recipe, share: float = 1.0
) -> Tensor:
    """Adds the gradient of the images' mean loss times `share` to the parameters' gradients, and returns that loss."""
    parts = recipe.micro_batches
    losses = []
    for some, their_labels in zip(images.chunk(parts), labels.chunk(parts), strict=True):
        with autocast(images.device, recipe.precision):
            loss = training_loss(forward(some), their_labels, recipe.techniques)
            loss = loss if share == 1 else loss * share
            loss = loss if parts == 1 else loss / parts
        loss.backward()
        losses.append(loss.detach())
    return losses[0] if parts == 1 else torch.stack(losses).sum()


def forward_passes(models: Sequence[nn.Module], recipe: Recipe) -> list[Callable[[Tensor], Tensor]]:
    """The networks' forward passes: eager, or through `torch.compile` if the recipe says so; with fused norms likewise.

    If the recipe says so, convolutions of the networks themselves take Winograd's algorithm from now on.

    Each input shape is compiled separately. A network that does not compile as one graph raises; otherwise torch would
    silently fall back to other arithmetic. Inductor's deterministic mode keeps choices that change the rounding from
    following a measurement (https://github.com/pytorch/pytorch/pull/163589), so that a network alone and in a cohort,
    in this process and in the next, gets the same code.
    """
    if recipe.winograd:
        for model in models:
            winograd_(model)
    forwards: list[Callable[[Tensor], Tensor]] = [
        fused_forward(model) if recipe.fused_norm else model for model in models
    ]
    if not recipe.compile:
        return forwards
    # Torch limits the number of compiled graphs, and those of earlier trainings must not count.
    torch.compiler.reset()
    return [
        torch.compile(forward, fullgraph=True, dynamic=False, options={"deterministic": True}) for forward in forwards
    ]


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable, precision: str = "float32", ranks: Ranks | None = None
) -> tuple[float, float]:
    """Error (fraction of samples misclassified, in [0, 1]) and mean cross-entropy (nats) over `batches`, in eval mode.

    The model's mode is restored afterwards. NaN outputs count as errors. ranks: of processes that each have a part of
    the batches; the result is that of all parts.
    """
    was_training = model.training
    model.eval()
    wrong: Tensor | int = 0
    loss: Tensor | float = 0.0
    count = 0
    for images, labels, *_ in batches:
        with autocast(images.device, precision):
            outputs = model(images).float()
        more_wrong, more_loss = wrong_and_loss(outputs, labels)
        wrong, loss = wrong + more_wrong, loss + more_loss
        count += len(labels)
    model.train(was_training)
    if not count:
        raise SettingError("there is no batch to evaluate on; give batches that can be read again, not an iterator")
    totals: Sequence[float] = (int(wrong), float(loss), count)
    if ranks is not None:
        totals = ranks.sums(totals)
    return totals[0] / totals[2], totals[1] / totals[2]


def wrong_and_loss(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The number of wrong answers among outputs [N, classes], NaN among them, and the sum of the cross-entropies."""
    predicted = outputs.argmax(1).masked_fill(outputs.isnan().any(1), -1)
    return (predicted != labels).sum(), F.cross_entropy(outputs, labels, reduction="sum").double()


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """The context of a forward pass: bfloat16 autocast, or nothing for float32."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    if precision != "float32":
        raise SettingError(f"precision is {precision!r}; expected 'float32' or 'bfloat16'")
    return contextlib.nullcontext()


def _seed_draws(seed: int, device: torch.device) -> None:
    # torch.manual_seed seeds every device, which takes several times as long.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def _batches(loader, start_step: int, stop_step: int) -> Iterator[tuple[Tensor, Tensor]]:
    step = start_step
    while step < stop_step:
        epoch, position = divmod(step, loader.steps_per_epoch)
        with contextlib.closing(loader.epoch(epoch, start_step=position)) as batches:
            for batch in batches:
                yield batch.images, batch.labels
                step += 1
                if step == stop_step:
                    return
