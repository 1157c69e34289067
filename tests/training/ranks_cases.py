"""What a rank is asked to do in the tests of `sparselt.training.ranks`; every rank runs the same function."""

from dataclasses import dataclass

import torch
from torch import nn

from sparselt import Mask, magnitude_prune
from sparselt.data import Shard
from sparselt.data.batch import Batch
from sparselt.errors import TrainingError
from sparselt.optim import build_optimizer
from sparselt.stages import Stage
from sparselt.training import loop
from sparselt.training.batch_norm import synchronize_batch_norm_
from sparselt.training.checkpoint import save_tensors
from sparselt.training.ranks import Ranks
from sparselt.training.recipe import Recipe
from sparselt.training.schedule import Schedule

STEPS = 100
RECIPE = Recipe("none", 10, STEPS, Schedule("cosine", 0.02), weight_decay=1e-3)


class Batches:
    """Float64 images, of which a rank reads its share; 10 images are 3, 2, 3 and 2 for four ranks."""

    steps_per_epoch = STEPS

    def epoch(self, epoch, start_step=0):
        return self._of(range(start_step, STEPS))

    def _of(self, steps):
        places = Shard.current().share(RECIPE.batch_size)
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            labels = torch.randint(10, (RECIPE.batch_size,), generator=generator)
            images = torch.randn(RECIPE.batch_size, 1, 8, 8, generator=generator, dtype=torch.float64)
            images += labels.view(-1, 1, 1, 1) / 5
            part = slice(places.start, places.stop)
            yield Batch(images[part], labels[part], torch.arange(len(labels))[part])


def network():
    torch.manual_seed(3)
    layers = [nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 10)]
    model = nn.Sequential(*layers).double().to(memory_format=torch.channels_last)
    return model, magnitude_prune(model, Mask.ones_like(model), fraction=0.8)


def train(*, sent="all", sync=True):
    """The final weights, mean and deviation of the losses, and the bytes sent in a step."""
    (model, mask), ranks = network(), None
    mask.apply_(model)
    if Shard.current().world_size > 1:
        ranks = Ranks(model, RECIPE.batch_size, mask, sent)
        if sync:
            synchronize_batch_norm_(model)
    optimizer = build_optimizer(RECIPE, model.named_parameters(), mask)
    step = optimizer.step

    def noting(*arguments):
        for parameter in model.parameters() if ranks is not None else ():
            assert parameter.grad.data_ptr() % 16 == 0
            assert parameter.grad.stride() == parameter.stride()
        return step(*arguments)

    optimizer.step = noting
    trained = loop.train(model, optimizer, Batches(), RECIPE, ranks=ranks)
    sent = 0 if ranks is None else ranks.bytes_a_step
    loss = torch.tensor([trained.train_loss, trained.train_loss_std], dtype=torch.float64)
    return {**model.state_dict(), "loss": loss, "bytes": torch.tensor(sent)}


def normalized():
    """Output, gradients and statistics of a synchronized batch norm, on this rank's share."""
    norm = nn.BatchNorm2d(4).double()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 4))
    model = nn.Sequential(norm)
    synchronize_batch_norm_(model)
    x, weights = normalized_input()
    places = Shard.current().share(len(x))
    part = slice(places.start, places.stop)
    x = x[part].requires_grad_()
    out = model(x)
    (out * weights[part]).sum().backward()
    return {"out": out, "grad": x.grad, "scale": norm.weight.grad, **model.state_dict()}


def normalized_input():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(7, 4, 3, 5, generator=generator, dtype=torch.float64) for _ in range(2))


def evaluated():
    model, _ = network()
    batches = list(Batches()._of(range(5)))
    ranks = Ranks(model, RECIPE.batch_size) if Shard.current().world_size > 1 else None
    error, loss = loop.evaluate(model, batches, ranks=ranks)
    return {"found": torch.tensor([error, loss], dtype=torch.float64)}


def unequal():
    """The words of the error when the last rank's network differs."""
    model, _ = network()
    ranks = Ranks(model, RECIPE.batch_size)
    ranks.check_equal(0)
    if ranks.rank == ranks.count - 1:
        with torch.no_grad():
            model[4].weight.view(-1)[5] *= 1 + 1e-12
    try:
        ranks.check_equal(7)
    except TrainingError as error:
        return {"words": torch.tensor(list(str(error).encode()))}
    return {}


def every_way():
    """What the functions above return, under the name of each."""
    ways = {
        "all": train(),
        "again": train(),
        "live": train(sent="live"),
        "apart": train(sync=False),
        "normalized": normalized(),
        "evaluated": evaluated(),
        "unequal": unequal(),
    }
    return {f"{way}/{name}": tensor for way, found in ways.items() for name, tensor in found.items()}


def one_fails():
    if Shard.current().rank == 1:
        raise TrainingError("the second rank says why")
    Ranks(nn.Linear(1, 1), 2).sums([1.0])  # waits for the other
    return {}


@dataclass(frozen=True, kw_only=True, eq=False)
class InRanks(Stage):
    """Runs one of the functions above on every rank; each writes what it returns."""

    kind, title, unit = "in_ranks", "run a function", "points"

    case: str
    device: str = "cpu"

    def run(self, task):
        rank = Shard.current().rank
        result = globals()[self.case]()
        save_tensors(result, task.folder / f"{rank}.safetensors")
        return 1
