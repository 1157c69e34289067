"""The papers' questions, asked of networks and masks that were made elsewhere."""

import functools
import itertools
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from sparselt.analysis.connectivity import Path, evaluate_path, evaluate_plane, path_positions
from sparselt.analysis.distances import angle, l2_distance
from sparselt.analysis.flatness import hessian_eigenvalues
from sparselt.analysis.overlap import Overlap, jaccard_chance, layerwise_jaccard_chance, mask_overlap
from sparselt.analysis.plane import PlaneAxes, plane_axes
from sparselt.errors import SettingError
from sparselt.masks import Mask
from sparselt.masks.checkpoints import Checkpoint

PLANE_POINTS = 25
"""Points on each side of a plane's grid, unless another number is given."""


@dataclass(frozen=True)
class Pair:
    """Two of the networks, by their numbers. None: the files lack what the number is made from.

    jaccard and its chances: of the masks, see `sparselt.analysis.overlap`. l2, angle: distance of the prunable weights,
    masked ones 0, and their angle in degrees. l2_shared, angle_shared: of the weights that live in both alone (Frankle
    et al. 2019, Stabilizing). path: errors on the line between the networks, with its barrier.
    """

    first: int
    second: int
    jaccard: float | None = None
    jaccard_chance: float | None = None
    jaccard_layerwise_chance: float | None = None
    l2: float | None = None
    angle: float | None = None
    l2_shared: float | None = None
    angle_shared: float | None = None
    path: Path | None = None


@dataclass(frozen=True)
class TicketPlane:
    """Errors (fractions) and losses (nats) on the plane through three networks, see `ticket_plane`.

    axes: where the networks stand (`axes.points`, in the order given) and how (x, y) become coefficients. The unit is
    the L2 distance over all parameters.
    x: float64 [columns], y: float64 [rows], ascending. errors, losses: float64 [rows, columns] on that grid.
    corner_errors: of the three networks. mean_error: of the mean of their weights.
    """

    axes: PlaneAxes
    x: np.ndarray
    y: np.ndarray
    errors: np.ndarray
    losses: np.ndarray
    corner_errors: tuple[float, ...]
    mean_error: float


@dataclass(frozen=True)
class Tickets:
    """What `compare_tickets` found, network by network in the order given.

    densities: None for a network without a mask. errors (fractions), losses (nats): of the evaluation batches.
    eigenvalues: the largest of the Hessian on the live weights. overlap: of all masks together.
    """

    densities: tuple[float | None, ...]
    pairs: tuple[Pair, ...]
    overlap: Overlap | None = None
    errors: tuple[float, ...] | None = None
    losses: tuple[float, ...] | None = None
    eigenvalues: tuple[tuple[float, ...], ...] | None = None


def compare_tickets(
    tickets: Sequence[Checkpoint],
    model: nn.Module | None = None,
    batches: Iterable | None = None,
    *,
    pairs: Literal["successive", "all"] = "successive",
    points: int = 11,
    training_batches: Iterable | None = None,
    eigenvalues: int = 5,
) -> Tickets:
    """Overlap of masks against chance, distances, errors, barriers between networks, flatness.

    Args:
        tickets: of `sparselt.masks.checkpoints.read_ticket`, such as the levels of one run in order, or siblings.
        model: a network of their architecture; without it no network is evaluated. It is left as it is.
        batches: (images, labels, …), to evaluate on; can be read again.
        pairs: which are compared.
        points: on each line, with both ends, see `path_positions`.
        training_batches: with them, the Hessian's largest `eigenvalues` are computed for each network.

    Raises:
        SettingError: no ticket; a model without batches; a network that does not fit the model, or is not finite.
        MaskError: masks of different networks.
    """
    if not tickets:
        raise SettingError("there is no ticket to compare; expected one or more")
    if (model is None) != (batches is None):
        raise SettingError("a model and evaluation batches go together; give both, or neither")
    for place, ticket in enumerate(tickets):
        _check_finite(place, ticket)
    masks = [ticket.mask for ticket in tickets]
    known = [mask for mask in masks if mask is not None]
    every = list(itertools.combinations(range(len(tickets)), 2))
    chosen = every if pairs == "all" else [pair for pair in every if pair[1] - pair[0] == 1]
    errors = losses = spectra = None
    if model is not None and batches is not None:
        for place, ticket in enumerate(tickets):
            _check_fits(place, ticket, model)
        alone = [evaluate_path(model, t.weights, t.weights, batches, (0.0,)) for t in tickets]
        errors, losses = (tuple(getattr(path, name)[0] for path in alone) for name in ("errors", "losses"))
        if training_batches is not None:
            spectra = tuple(_largest(model, ticket, training_batches, eigenvalues) for ticket in tickets)
    return Tickets(
        tuple(None if mask is None else mask.density for mask in masks),
        tuple(_pair(tickets, first, second, model, batches, points) for first, second in chosen),
        mask_overlap(known) if len(known) == len(masks) > 1 else None,
        errors,
        losses,
        spectra,
    )


def ticket_plane(
    tickets: Sequence[Checkpoint], model: nn.Module, batches: Iterable, points: int = PLANE_POINTS
) -> TicketPlane:
    """The plane through three networks, on a grid around them (after Paul et al. 2022, Figs. 3 and 7).

    The second network is the origin, the third stands to its right, the first above. Within their triangle all
    parameters are interpolated, outside it prunable ones alone, see `sparselt.analysis.evaluate_plane`.

    Args:
        tickets: three with weights, of `sparselt.masks.checkpoints.read_ticket`.
        model, batches: as for `compare_tickets`. The batches are read once, for all points.
        points: of the grid, on each side.

    Raises:
        SettingError: not three networks, one that does not fit the model, or three that span no plane; fewer than 4
            points.
    """
    if len(tickets) != 3:
        raise SettingError(f"a plane goes through three networks, and there are {len(tickets)}; give three")
    for place, ticket in enumerate(tickets):
        _check_finite(place, ticket)
        _check_fits(place, ticket, model)
        for before in range(place):
            if all(torch.equal(tensor, tickets[before].weights[name]) for name, tensor in ticket.weights.items()):
                raise SettingError(
                    f"tickets {before} and {place} are the same network; a plane needs three that differ"
                )
    first, second, third = (ticket.weights for ticket in tickets)
    axes = plane_axes(first, second, third, [name for name, _ in model.named_parameters()])
    x, y = axes.grid(points, stretch=1.0)
    grid = axes.coefficients(np.stack(np.meshgrid(x, y), axis=-1)).reshape(-1, 2)
    coefficients = np.concatenate([[(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1 / 3, 1 / 3)], grid])
    plane = evaluate_plane(model, first, second, third, batches, coefficients)
    errors, losses = (np.array(values[4:]).reshape(len(y), len(x)) for values in (plane.errors, plane.losses))
    return TicketPlane(axes, x, y, errors, losses, plane.errors[:3], plane.errors[3])


def _pair(
    tickets: Sequence[Checkpoint],
    first: int,
    second: int,
    model: nn.Module | None,
    batches: Iterable | None,
    points: int,
) -> Pair:
    found: dict = {}
    one, other = tickets[first], tickets[second]
    if one.mask is not None and other.mask is not None:
        found["jaccard"] = one.mask.jaccard(other.mask)
        found["jaccard_chance"] = jaccard_chance(one.mask.density, other.mask.density)
        found["jaccard_layerwise_chance"] = layerwise_jaccard_chance(one.mask, other.mask)
    masks = [mask for mask in (one.mask, other.mask) if mask is not None]
    if not masks and model is not None:
        masks = [Mask.ones_like(model)]
    if masks and one.weights and other.weights:
        every = Mask({name: torch.ones_like(layer) for name, layer in masks[0].items()})
        shared = functools.reduce(operator.and_, masks)
        for name, mask in (("", every), ("_shared", shared)):
            found[f"l2{name}"] = l2_distance(one.weights, other.weights, mask)
            degrees = angle(one.weights, other.weights, mask)
            found[f"angle{name}"] = None if math.isnan(degrees) else degrees  # one has no weight there
    if model is not None and batches is not None:
        found["path"] = evaluate_path(model, one.weights, other.weights, batches, path_positions(points))
    return Pair(first, second, **found)


def _largest(model: nn.Module, ticket: Checkpoint, batches: Iterable, count: int) -> tuple[float, ...]:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        model.load_state_dict(ticket.weights)
        mask = Mask.ones_like(model) if ticket.mask is None else ticket.mask
        return tuple(hessian_eigenvalues(model, batches, mask, count).values)
    finally:
        model.load_state_dict(before)


def _check_finite(place: int, ticket: Checkpoint) -> None:
    for name, tensor in ticket.weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise SettingError(
                f"ticket {place}: {name!r} holds numbers that are not finite; give a network without them"
            )


def _check_fits(place: int, ticket: Checkpoint, model: nn.Module) -> None:
    if not ticket.weights:
        raise SettingError(f"ticket {place} is a mask without weights; to evaluate it, give its weights, too")
    expected = model.state_dict()
    missing = [name for name in expected if name not in ticket.weights and not name.endswith("num_batches_tracked")]
    other = [name for name in ticket.weights if name not in expected]
    shapes = [n for n, t in expected.items() if n in ticket.weights and ticket.weights[n].shape != t.shape]
    for names, what in ((missing, "lacks"), (other, "has"), (shapes, "has in another shape than the model")):
        if names:
            raise SettingError(
                f"ticket {place} {what} {names[0]!r}; give the network that it was made with, such as "
                "--model package.module:function"
            )
