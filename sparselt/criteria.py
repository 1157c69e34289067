"""What a weight is worth: the pruning criteria of the papers, one function of scores each.

A criterion is a function `scores(network)`. It takes a `MaskedNetwork` and returns a score for every weight: a mapping
from the mask's names to floating-point tensors of the weights' shapes on their device. The weights with the lowest
scores are pruned, see `sparselt.pruning.prune`. Scores of weights that are already pruned are ignored. A user's own
criterion is such a function, or a `Criterion` around one; to add one here, write the function and add a line to
`CRITERIA`.

All criteria work on a network at initialization or after training, dense or already masked; one that compares with the
initialization (`needs="initial"`) needs a trained network. They leave the network as
it is: weights, buffers, gradients, training mode and `requires_grad`. Equal inputs give equal scores; on a GPU only
with `torch.use_deterministic_algorithms(True)`, because its convolutions may add in any order.
"""

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparselt import own
from sparselt.errors import SettingError
from sparselt.masks import Mask, random_generator

Needs = Literal["weights", "initial", "shape", "samples"]


@dataclass(frozen=True)
class MaskedNetwork:
    """The network whose weights a criterion scores, and what it may use for that.

    Attributes:
        model: the network; for criteria that need only weights, a mapping from parameter names to weights (a
            checkpoint) will do. Do not change it: work on a `copy`.
        mask: the weights that are alive.
        batches: labelled images, each batch (images, labels, …). Every pass reads them again: give no iterator.
        loss: mean loss of (outputs, labels) over a batch.
        seed: of random scores. torch's random numbers are seeded with it before a criterion runs.
        initial: the weights at initialization by parameter name (a checkpoint), for criteria that compare with them.

    Raises:
        MaskError: the mask is of another model.
        SettingError: `model` is neither a network nor tensors by name.
    """

    model: nn.Module | Mapping[str, Tensor]
    mask: Mask
    batches: Iterable | None = None
    loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy
    seed: int = 0
    initial: Mapping[str, Tensor] | None = None

    def __post_init__(self):
        self.mask.check_fits(self._parameters)
        if self.initial is not None:
            self.mask.check_fits(self.initial)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The masked layers' weights by name, 0.0 where pruned: new tensors without gradients."""
        weights = self._parameters
        return {
            name: weights[name].detach().masked_fill(~layer.to(weights[name].device), 0.0)
            for name, layer in self.mask.items()
        }

    @property
    def initial_weights(self) -> dict[str, Tensor]:
        """The masked layers' weights at initialization by name, on the device of `weights`; not masked.

        Raises:
            SettingError: they were not given.
        """
        if self.initial is None:
            raise SettingError(
                "this criterion compares with the initial weights and got none; give prune(…, initial=…)"
            )
        return {name: self.initial[name].detach().to(self.device) for name in self.mask}

    @property
    def device(self) -> torch.device:
        """Where the first masked layer's weight is."""
        return self._parameters[next(iter(self.mask))].device

    def copy(self) -> tuple[nn.Module, list[Tensor]]:
        """A copy of the network under its mask, which a criterion may change, and the copy's masked layers' weights.

        All floating-point parameters of the copy require gradients; their `.grad` is None.

        Raises:
            SettingError: `model` is a mapping of weights.
        """
        if not isinstance(self.model, nn.Module):
            raise SettingError("this criterion runs the network and was given weights only; give a torch.nn.Module")
        model = copy.deepcopy(self.model)
        self.mask.apply_(model)
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        model.zero_grad()
        parameters = dict(model.named_parameters())
        return model, [parameters[name] for name in self.mask]

    def samples(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over the batches that hold samples: images and labels on the network's device.

        Raises:
            SettingError: no batches were given, none holds a sample, or one is not (images, labels, …).
        """
        if self.batches is None:
            raise SettingError("this criterion needs data and got none; give batches of (images, labels)")
        found = False
        for place, batch in enumerate(self.batches):
            images, labels, *_ = _checked_batch(place, batch, ("images", "labels"))
            if len(labels):
                found = True
                yield images.to(self.device), labels.to(self.device)
        if not found:
            raise SettingError(
                "no batch holds a sample to score weights on; give batches that can be read again, not an iterator"
            )

    @property
    def image_shape(self) -> torch.Size:
        """Channels, height and width of the batches' images. Labels are not read.

        Raises:
            SettingError: no batch was given, or the first is not (images, …).
        """
        for batch in self.batches or ():
            return _checked_batch(0, batch, ("images",))[0].shape[1:]
        raise SettingError("this criterion needs the shape of an image and got no batch; give batches of (images, …)")

    @property
    def _parameters(self) -> Mapping[str, Tensor]:
        return dict(self.model.named_parameters()) if isinstance(self.model, nn.Module) else self.model


def _checked_batch(place: int, batch: Any, parts: tuple[str, ...]) -> tuple[Any, ...]:
    """A batch in a tuple. parts: what it has to begin with, as tensors."""
    # A tensor would unpack as well, into its rows, and a mapping into its keys.
    found = () if isinstance(batch, Tensor | Mapping | str) or not isinstance(batch, Iterable) else tuple(batch)
    if len(found) < len(parts) or not all(hasattr(part, "to") for part in found[: len(parts)]):
        raise SettingError(
            f"batches: batch {place} is a {type(batch).__name__}; expected ({', '.join(parts)}, …) of tensors: give a "
            "DataLoader, or a list of such batches"
        )
    return found


Scores = Callable[[MaskedNetwork], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Criterion:
    """A pruning criterion.

    Attributes:
        scores: the function of scores.
        help: what it prefers and its source, in a line.
        needs: `weights` alone; the `initial` weights as well; the `shape` of an image in the batches; or labelled
            `samples`.
        rounds: prunings that together reach the fraction; the weights are scored again before each.
    """

    scores: Scores
    help: str = ""
    needs: Needs = "samples"
    rounds: int = 1

    def __post_init__(self):
        if not callable(self.scores):
            raise SettingError(f"a criterion's scores is a {type(self.scores).__name__}; expected a function")
        if self.rounds < 1:
            raise SettingError(f"a criterion's rounds is {self.rounds}; expected 1 or more")

    @property
    def needs_batches(self) -> bool:
        """Whether it reads images, or their shape."""
        return self.needs in ("shape", "samples")

    @property
    def name(self) -> str:
        return getattr(self.scores, "__name__", type(self.scores).__name__)


def find_criterion(criterion: "str | Criterion | Scores") -> Criterion:
    """The criterion with this name in `CRITERIA`; a function of scores becomes a `Criterion`.

    The user's own is also found by its reference, `package.module:name`, or as an entry point of `sparselt.criteria`.

    Raises:
        SettingError: an unknown name, or neither a name nor a function.
    """
    if isinstance(criterion, str):
        unknown = f"pruning criterion is {criterion!r}"
        reference = own.reference_for("sparselt.criteria", criterion, CRITERIA, unknown)
        if not reference:
            return CRITERIA[criterion]
        return find_criterion(own.resolve(reference))  # type: ignore[arg-type]  # it refuses other objects itself
    if isinstance(criterion, Criterion):
        return criterion
    if not callable(criterion):
        raise SettingError(
            f"pruning criterion is a {type(criterion).__name__}; expected one of {', '.join(CRITERIA)}, or a function "
            "of a sparselt.criteria.MaskedNetwork that returns scores"
        )
    return Criterion(criterion)


def criterion_digest(name: str) -> str | None:
    """What of a criterion decides results besides its name: the digest of the user's file; None for `CRITERIA`."""
    return None if name in CRITERIA else own.source_digest(find_criterion(name).scores)


@functools.cache  # a process imports the file once, and later edits do not reach it
def check_unedited(name: str, digest: str | None) -> None:
    """Raises a SettingError if the file that defines a criterion no longer has this `criterion_digest`."""
    own.check_unedited("criterion", name, digest, criterion_digest)


def magnitude(network: MaskedNetwork) -> dict[str, Tensor]:
    """|w| in float32 (Han et al. 2015; the criterion of Frankle & Carbin 2019)."""
    return {name: weight.float().abs() for name, weight in network.weights.items()}


def magnitude_increase(network: MaskedNetwork) -> dict[str, Tensor]:
    """|w| - |w at initialization| in float32: Zhou et al. 2019, Deconstructing Lottery Tickets, section 3.

    Scores are signed: a weight that shrank is worth less than one that stayed. For a network at initialization every
    score is 0, and the first weights in layer order would go, so that is refused.

    Raises:
        SettingError: no initial weights, or all live weights are the initial ones.
    """
    initial, mask = network.initial_weights, network.mask
    scores = {name: weight.float().abs() - initial[name].float().abs() for name, weight in network.weights.items()}
    if not any((score[mask[name].to(score.device)] != 0).any() for name, score in scores.items()):
        raise SettingError("magnitude_increase: every live weight has its initial magnitude; prune a trained network")
    return scores


def random(network: MaskedNetwork) -> dict[str, Tensor]:
    """Uniform in [0, 1), a function of the seed and the layer's name: the control of every other criterion."""
    return {
        name: torch.from_numpy(random_generator(f"{network.seed}/scores/{name}").random(tuple(layer.shape))).to(
            network.device
        )
        for name, layer in network.mask.items()
    }


def snip(network: MaskedNetwork) -> dict[str, Tensor]:
    """|w ⊙ ∂L/∂w|: the connection sensitivity of SNIP (Lee et al. 2019, section 4.1).

    The paper divides by the sum of all scores, which does not change their order; here they are times the number of
    samples instead. L is the mean loss over all samples, so the split into batches does not matter. The authors take
    one training batch, and their code (snip/prune.py: is_train is False) lets batch norm use its running statistics, as
    here. A weight that does not influence the loss scores 0.
    """
    model, weights = network.copy()
    model.eval()
    totals = [torch.zeros_like(weight) for weight in weights]
    for images, labels in network.samples():
        loss = network.loss(model(images), labels) * len(labels)
        for total, gradient in zip(totals, _gradients(loss, weights), strict=True):
            total += gradient
    return {name: (w * total).detach().abs() for name, w, total in zip(network.mask, weights, totals, strict=True)}


def grasp(network: MaskedNetwork) -> dict[str, Tensor]:
    """w ⊙ Hg: gradient signal preservation, GraSP (Wang et al. 2020, section 4), with the opposite sign.

    H is the Hessian and g the gradient of the loss in the live weights of all masked layers. The paper prunes the
    weights with the highest -w ⊙ Hg; here the lowest scores go, so the sign changes. Scores are signed, not absolute.
    As in the authors' code (pruner/GraSP.py), outputs are divided by a temperature of 200 and the network is in
    training mode: batch norm normalizes by each batch, so the split into batches matters. The authors take 10 images of
    each CIFAR-10 class, in two batches.
    """
    model, weights = network.copy()
    model.train()
    gradient = [torch.zeros_like(weight) for weight in weights]
    product = [torch.zeros_like(weight) for weight in weights]
    for images, labels in network.samples():
        loss = network.loss(_cooled(model(images)), labels) * len(labels)
        for total, part in zip(gradient, _gradients(loss, weights), strict=True):
            total += part
    for total, layer in zip(gradient, network.mask.values(), strict=True):
        total.masked_fill_(~layer.to(total.device), 0.0)
    for images, labels in network.samples():
        loss = network.loss(_cooled(model(images)), labels) * len(labels)
        parts = _gradients(loss, weights, create_graph=True)
        signal = torch.stack([(g * part).sum() for g, part in zip(gradient, parts, strict=True)]).sum()
        for total, part in zip(product, _gradients(signal, weights), strict=True):
            total += part
    return {name: (w * hg).detach() for name, w, hg in zip(network.mask, weights, product, strict=True)}


def synflow(network: MaskedNetwork) -> dict[str, Tensor]:
    """w ⊙ ∂R/∂w of the network made positive: synaptic flow, SynFlow (Tanaka et al. 2020, algorithm 1).

    R is the sum of the outputs for one image of ones when every parameter and buffer is replaced by its absolute value
    (the authors' Pruners/pruners.py) in eval mode (their prune.py). Pruned in many small rounds, no layer runs empty
    before every layer is down to one weight (their theorem 3); the paper takes 100. The theorem needs every layer to
    carry the whole flow: a residual branch may run empty, as its shortcut carries it. Two choices are ours. Scores are
    float64: R grows with the product of the layers' widths and exceeds float32 in deep networks. Running means count
    as 0, as they are at initialization: subtracting them after training would make the flow negative.

    Of the batches only the images' shape is read, never their content.
    """
    model, weights = network.copy()
    model.double().eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_mean"):
                tensor.zero_()
            elif tensor.is_floating_point():
                tensor.abs_()
    ones = torch.ones(1, *network.image_shape, dtype=torch.float64, device=network.device)
    gradients = _gradients(model(ones).sum(), weights)
    return {name: (w * g).detach() for name, w, g in zip(network.mask, weights, gradients, strict=True)}


def _gradients(loss: Tensor, weights: list[Tensor], create_graph: bool = False) -> tuple[Tensor, ...]:
    """The gradient in each weight, 0 where the loss does not depend on it."""
    return torch.autograd.grad(loss, weights, create_graph=create_graph, allow_unused=True, materialize_grads=True)


def _cooled(outputs: Any) -> Any:
    """Outputs divided by GraSP's temperature; those of an auxiliary classifier as well."""
    return outputs / 200 if isinstance(outputs, Tensor) else tuple(output / 200 for output in outputs)


CRITERIA: dict[str, Criterion] = {
    "magnitude": Criterion(magnitude, "large weights stay (Han et al. 2015)", needs="weights"),
    "magnitude_increase": Criterion(
        magnitude_increase, "weights stay that grew the most in training (Zhou et al. 2019)", needs="initial"
    ),
    "random": Criterion(random, "chance decides, by the seed", needs="weights"),
    "snip": Criterion(snip, "weights stay on which the loss depends most (SNIP, Lee et al. 2019)"),
    "grasp": Criterion(grasp, "weights stay that keep the gradient large (GraSP, Wang et al. 2020)"),
    "synflow": Criterion(
        synflow, "weights on the strongest paths stay; no data (SynFlow, Tanaka et al. 2020)", needs="shape", rounds=100
    ),
}
