"""Iterative magnitude pruning with rewinding in a loop of one's own: gradient clipping, a scaler, an average, resuming.

python examples/frameworks/loop.py
"""

import copy
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sparselt import Mask, MaskedSGD, magnitude_prune

STEPS, REWIND_STEP, BATCH = 120, 20, 64
IMAGES, LABELS = (torch.tensor(array) for array in load_digits(return_X_y=True))
IMAGES = IMAGES.float() / 16


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def train(model: nn.Module, mask: Mask, steps: range, resumed: Path | None = None, saved: Path | None = None):
    """Trains through `steps`; returns the average of the weights."""
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, mask=mask)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))  # after the mask: a copy of masked weights
    scaler = torch.amp.GradScaler("cpu")  # of use with float16
    kept = {"model": model, "optimizer": optimizer, "average": average, "scaler": scaler}
    for name, state in torch.load(resumed, weights_only=True).items() if resumed else ():
        kept[name].load_state_dict(state)
    for step in steps:
        batch = torch.arange(step * BATCH, (step + 1) * BATCH) % len(LABELS)  # the order depends on the step alone
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(IMAGES[batch]), LABELS[batch])
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        average.update_parameters(model)
    if saved:
        torch.save({name: thing.state_dict() for name, thing in kept.items()}, saved)  # the optimizer's has the mask
    return average


if __name__ == "__main__":
    model = network()
    mask = Mask.ones_like(model)
    train(model, mask, range(REWIND_STEP))
    early = copy.deepcopy(model.state_dict())
    for level in range(4):
        model.load_state_dict(early)  # the optimizer sets what the mask prunes to zero
        average = train(model, mask, range(REWIND_STEP, STEPS))
        error = (average(IMAGES).argmax(1) != LABELS).float().mean()
        print(f"level {level}, density {mask.density:.2f}: training error {error:.2%}")
        mask = magnitude_prune(model, mask, fraction=0.5)
