"""What the papers' protocol promises, each against a few independent lines."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sparselt import Mask
from sparselt.data import PadCrop, ResidentData, ResidentTrainLoader
from sparselt.models import build_model
from sparselt.optim import RECIPE_OPTIONS
from sparselt.training.checkpoint import load_tensors

REWIND = 6


def mask_of(bench, need) -> Mask:
    bench.run(need.stage)
    return Mask.load(bench.store.folder(need.stage) / need.name)


def ticket_inputs(bench, **changes):
    lab = bench.lab(**changes)
    return lab, bench.tensors(lab.dense(0), f"step-{REWIND}.safetensors"), mask_of(bench, lab.mask(0, REWIND, 1))


def plain_training(bench, lab, seeds, start: int, weights=None, mask=None, momentum=None, until=None):
    """Textbook loop: the mask multiplies weights before and gradients after each backward pass; torch.optim.SGD."""
    setting = lab.setting
    torch.set_num_threads(1)
    model = build_model(setting.model, classes=10, channels=1, seed=seeds["initialization"])
    if weights is not None:
        model.load_state_dict(weights)
    if mask is not None:
        mask.apply_(model)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=setting.lr, momentum=setting.momentum, weight_decay=setting.weight_decay
    )
    for name, p in model.named_parameters():
        if momentum is not None:
            optimizer.state[p]["momentum_buffer"] = momentum[name].clone()
    resident = ResidentData.open(bench.store.folder(lab.image_arguments["train_pixels"].stage))
    normal = resident.manifest.normalization
    transform = PadCrop(setting.padding, setting.flip, normal.mean, normal.std, normal.scale)
    loader = ResidentTrainLoader(resident, setting.batch_size, seeds["order"], seeds["augmentation"], transform)
    batches = [batch for epoch in range(2) for batch in loader.epoch(epoch)]
    for step in range(start, until or setting.steps):
        rate = setting.lr * 0.1 ** sum(step >= milestone for milestone in setting.milestones)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        F.cross_entropy(model(batches[step].images), batches[step].labels).backward()
        if mask is not None:
            for name, p in model.named_parameters():
                if name in mask:
                    p.grad *= mask[name]
        optimizer.step()
        if mask is not None:
            mask.apply_(model)
    return model.state_dict()


def assert_same_training(found, expected):
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_rewinding_restores_exactly_mask_times_checkpoint_with_buffers(bench):
    lab, checkpoint, mask = ticket_inputs(bench)
    start = bench.tensors(lab.ticket(0, REWIND, 1), f"step-{REWIND}.safetensors")
    for name, tensor in checkpoint.items():
        expected = torch.where(mask[name], tensor, torch.zeros(())) if name in mask else tensor
        assert torch.equal(start[name], expected), name
    assert any("running_var" in name for name in checkpoint)
    assert mask.density == pytest.approx(0.8, abs=1e-3)


def test_dense_training_is_textbook_sgd(bench):
    # A low rate: at 0.1 the first steps amplify a rounding difference by a hundred.
    lab = bench.lab(lr=0.01)
    expected = plain_training(bench, lab, lab.dense(0).identity_values["seeds"], 0)
    assert_same_training(bench.tensors(lab.dense(0), "final.safetensors"), expected)


def test_a_rewound_ticket_is_textbook_training_with_clock_and_data_at_the_rewind_step_and_zero_momentum(bench):
    lab, checkpoint, mask = ticket_inputs(bench)
    stage = lab.ticket(0, REWIND, 1)
    expected = plain_training(bench, lab, stage.identity_values["seeds"], REWIND, checkpoint, mask)
    found = bench.tensors(stage, "final.safetensors")
    assert_same_training(found, expected)
    late = plain_training(
        bench, lab, stage.identity_values["seeds"], 0, checkpoint, mask, until=lab.setting.steps - REWIND
    )
    assert max((found[n] - late[n]).abs().max() for n in mask) > 0.01, "the test cannot tell where the clock stood"


def test_momentum_is_restored_only_if_the_switch_says_so(bench):
    lab, checkpoint, mask = ticket_inputs(bench, rewound_momentum="restored")
    momentum = bench.tensors(lab.dense(0), f"momentum-{REWIND}.safetensors")
    momentum = {name: m * mask[name] if name in mask else m for name, m in momentum.items()}
    stage = lab.ticket(0, REWIND, 1)
    found = bench.tensors(stage, "final.safetensors")
    assert_same_training(
        found, plain_training(bench, lab, stage.identity_values["seeds"], REWIND, checkpoint, mask, momentum)
    )
    zero = plain_training(bench, lab, stage.identity_values["seeds"], REWIND, checkpoint, mask)
    assert max((found[n] - zero[n]).abs().max() for n in mask) > 0.01, "the test cannot tell the switch's sides apart"


@pytest.mark.parametrize("optimizer", RECIPE_OPTIONS)
def test_a_dense_network_rewound_with_its_momentum_is_the_network_that_was_never_interrupted(bench, optimizer):
    lab = bench.lab(optimizer=optimizer, lr=0.01, rewound_momentum="restored")
    resumed = bench.tensors(lab.rewound(0, REWIND, None, "resumed"), "final.safetensors")
    for name, tensor in bench.tensors(lab.dense(0), "final.safetensors").items():
        assert torch.equal(resumed[name], tensor), name


def test_masks_are_global_magnitude_over_the_trained_weights(bench):
    lab = bench.lab()
    weights = bench.tensors(lab.dense(0), "final.safetensors")
    first = mask_of(bench, lab.mask(0, REWIND, 1))
    flat = np.concatenate([weights[name].abs().numpy().ravel() for name in first])
    limit = np.sort(flat)[int(np.ceil(0.2 * flat.size))]
    for name in first:
        assert np.array_equal(first[name].numpy(), weights[name].abs().numpy() >= limit), name
    second = mask_of(bench, lab.mask(0, REWIND, 2))
    assert second & first == second and second.density == pytest.approx(0.64, abs=1e-3)


def test_pruned_weights_are_zero_at_the_end_of_training(bench):
    lab, _, mask = ticket_inputs(bench)
    final = bench.tensors(lab.ticket(0, REWIND, 1), "final.safetensors")
    assert all(torch.all(final[name][~mask[name]] == 0) for name in mask)


def test_random_control_has_the_tickets_layerwise_densities_and_start(bench):
    lab = bench.lab()
    stage = lab.random_control(0, REWIND, 2)
    drawn, like = mask_of(bench, stage.inputs["mask"]), mask_of(bench, lab.mask(0, REWIND, 2))
    assert drawn.layer_densities() == like.layer_densities() and drawn != like
    start = bench.tensors(stage, f"step-{REWIND}.safetensors")
    checkpoint = bench.tensors(lab.dense(0), f"step-{REWIND}.safetensors")
    assert all(torch.equal(start[name], checkpoint[name] * drawn[name]) for name in drawn)


def test_reinitialized_control_has_the_tickets_mask_on_other_weights(bench):
    lab = bench.lab()
    stage = lab.reinit_control(0, REWIND, 2)
    mask = mask_of(bench, lab.mask(0, REWIND, 2))
    start, initial = bench.tensors(stage, "step-0.safetensors"), bench.tensors(lab.dense(0), "step-0.safetensors")
    for name in mask:
        assert torch.equal(start[name] != 0, mask[name])
        assert not torch.equal(start[name], initial[name] * mask[name])


@pytest.mark.parametrize("reshuffle", ["never", "replicate", "level"])
def test_seeds_differ_in_exactly_what_the_switch_says(bench, reshuffle):
    lab = bench.lab(reshuffle=reshuffle)
    trainings = {
        (replicate, level): lab.ticket(replicate, REWIND, level).identity_values["seeds"]
        for replicate in (0, 1)
        for level in (0, 1, 2)
    }
    distinct = {
        name: len({seeds[name] for seeds in trainings.values()}) for name in ("initialization", "order", "augmentation")
    }
    orders = {"never": 1, "replicate": 2, "level": 6}[reshuffle]
    assert distinct == {"initialization": 2, "order": orders, "augmentation": orders}
    one = trainings[0, 0]
    assert len(set(one.values())) == 3, "the three seeds are separate"


def test_two_trainings_are_equal_to_the_bit(bench, tmp_path):
    from sparselt.runs.store import Store

    lab = bench.lab()
    other = type(bench)(Store(tmp_path))
    for stage, name in ((lab.dense(1), "final.safetensors"), (lab.ticket(1, REWIND, 1), "final.safetensors")):
        bench.run(stage.want(name))
        other.run(stage.want(name))
        first, second = (b.store.folder(stage) / name for b in (bench, other))
        assert first.read_bytes() == second.read_bytes()


def test_evaluation_is_free_of_augmentation(bench):
    lab, strong = bench.lab(), bench.lab(padding=3)
    weights = bench.tensors(lab.dense(0), "final.safetensors")
    path = bench.json(strong.path(lab.dense(0), lab.dense(0), "to itself"), "path.json")
    measured = bench.json(lab.dense(0), "measurements.json")
    assert path["errors"] == [measured["test_error"]] * 3 and path["barrier"] == 0 and path["buffers"] == "interpolate"
    resident = ResidentData.open(bench.store.folder(lab.image_arguments["test_pixels"].stage))
    model = build_model("resnet8", classes=10, channels=1, seed=0).eval()
    model.load_state_dict(weights)
    pixels = resident.images("test").double()
    train = resident.images("train").double()
    images = ((pixels - train.mean()) / train.std(correction=0)).float()
    with torch.no_grad():
        wrong = (model(images).argmax(1) != resident.labels("test")).double().mean()
    assert measured["test_error"] == pytest.approx(float(wrong), abs=0.0021)


def test_checkpoints_of_another_network_are_refused(bench):
    from sparselt.errors import StoreError
    from sparselt.training.checkpoint import rewind_

    lab = bench.lab()
    checkpoint = bench.tensors(lab.dense(0), "step-0.safetensors")
    model = build_model("resnet20", classes=10, channels=1, seed=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(StoreError, match="does not fit"):
        rewind_(model, checkpoint, None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_broken_checkpoint_is_named(tmp_path):
    from sparselt.errors import StoreError

    (tmp_path / "weights.safetensors").write_bytes(b"\x10")
    with pytest.raises(StoreError, match=r"weights\.safetensors"):
        load_tensors(tmp_path / "weights.safetensors")


def test_a_training_that_diverges_fails_with_the_reason(bench):
    from sparselt.runs.worker import run_stage

    lab = bench.lab(lr=1e30)
    bench.run(*(need.stage for need in lab.dense(0).inputs.values()))
    outcome = run_stage(lab.dense(0), str(bench.store.root))
    assert "diverged" in outcome.error and not bench.store.has(lab.dense(0))
