"""Small data, networks and masks for the tests of networks that are trained together, on a CPU or a GPU."""

import copy
import dataclasses
from pathlib import Path

import torch

from sparselt import Mask
from sparselt.data import PadCrop, ResidentData, ResidentTrainLoader, SyntheticImages, open_dataset, write_dataset
from sparselt.models import build_model
from sparselt.optim import build_optimizer
from sparselt.training import loop
from sparselt.training.checkpoint import flat_state, load_state
from sparselt.training.cohort import Cohort, Member
from sparselt.training.recipe import Recipe
from sparselt.training.schedule import Schedule

# 330 images: 26 steps are two epochs and a half.
RECIPE = Recipe("resnet8", 32, 26, Schedule("step", 0.2, (12, 18), warmup_steps=4), weight_decay=1e-3)


def read_pixels(folder: Path) -> ResidentData:
    write_dataset(SyntheticImages(330, 60, classes=10, height=12, width=12, storage="raw"), folder)
    return ResidentData.read(open_dataset(folder))


class Seen:
    """What a training showed: every step's number, and the network and its momentum at some of them."""

    def __init__(self, wanted=()):
        self.wanted, self.steps, self.networks, self.momentum = wanted, [], {}, {}

    def __call__(self, step: int, model: torch.nn.Module, momentum) -> None:
        self.steps.append(step)
        if step in self.wanted:
            self.networks[step] = copy.deepcopy(model.state_dict())
            self.momentum[step] = {name: buffer.clone() for name, buffer in momentum().items()}


class Cases:
    """Members of a cohort on one device, and what becomes of them alone and together."""

    def __init__(self, pixels: ResidentData, device: str):
        self.pixels, self.device = pixels, device

    def network(self, seed: int = 0) -> torch.nn.Module:
        return build_model("resnet8", classes=10, channels=3, seed=seed).to(self.device)

    def mask(self, seed: int, density: float = 0.3) -> Mask:
        generator = torch.Generator().manual_seed(seed)
        layers = Mask.ones_like(self.network())
        return Mask({name: torch.rand(layer.shape, generator=generator) < density for name, layer in layers.items()})

    def loader(self, seed: int) -> ResidentTrainLoader:
        normal = self.pixels.manifest.normalization
        transform = PadCrop(1, True, normal.mean, normal.std, normal.scale)
        return ResidentTrainLoader(self.pixels, RECIPE.batch_size, seed, 2**63 + seed, transform, self.device)

    def member(self, seed: int, recipe: Recipe = RECIPE, **options) -> Member:
        return Member(recipe, self.loader(seed), self.network(seed).state_dict(), **options)

    def cohort(self, members: list[Member], **options) -> Cohort:
        return Cohort([self.network(9) for _ in members], members[0].recipe, members[0].loader, **options)

    def alone(self, member: Member, seen: Seen) -> tuple[dict, loop.Trained]:
        """The member trained by itself, by the loop that trains any network."""
        model, recipe = self.network(), member.recipe
        model.load_state_dict(member.state)
        if member.mask is not None:
            member.mask.apply_(model)
        optimizer = build_optimizer(recipe, model.named_parameters(), member.mask)
        if member.optimizer_state is not None:
            load_state(model, optimizer, member.optimizer_state)

        trained = loop.train(
            model,
            optimizer,
            member.loader,
            recipe,
            start_step=member.start_step,
            on_step=lambda step: seen(step, model, lambda: flat_state(optimizer.named_state())),
        )
        return model.state_dict(), trained

    def together(self, members: list[Member], wanted=(), cohort: Cohort | None = None) -> list[tuple]:
        """For each member: its network's state at the end, its result, what it showed."""
        found: list = [None] * len(members)
        seen = [Seen(wanted) for _ in members]
        watched = [
            dataclasses.replace(member, on_step=lambda step, net, own=own: own(step, net.model, net.optimizer_state))
            for member, own in zip(members, seen, strict=True)
        ]
        cohort = cohort or self.cohort(members)
        for k, model, result in cohort.train(watched):
            found[k] = (copy.deepcopy(model.state_dict()), result, seen[k])
        return found

    def assert_as_alone(self, members: list[Member], wanted=(), cohort: Cohort | None = None) -> None:
        """Weights, buffers, losses, checkpoints and momentum, all to the bit."""
        for member, (state, result, seen) in zip(members, self.together(members, wanted, cohort), strict=True):
            expected = Seen(wanted)
            its_state, its_result = self.alone(member, expected)
            assert result == its_result and seen.steps == expected.steps
            assert_same(state, its_state)
            assert seen.networks.keys() == expected.networks.keys()
            for step in expected.networks:
                assert_same(seen.networks[step], expected.networks[step])
                assert_same(seen.momentum[step], expected.momentum[step])


def assert_same(found, expected) -> None:
    """Equal tensors under equal names."""
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]
