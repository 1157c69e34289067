"""A network of timm under a mask: no decay for biases and norms, timm's schedule and its average of the weights.

pip install timm
python examples/frameworks/timm_model.py
"""

import timm
import torch
from loop import IMAGES, LABELS
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3

from sparselt import Mask, MaskedSGD, magnitude_prune


def train(steps: int = 20) -> tuple[torch.nn.Module, torch.nn.Module, Mask]:
    """Returns the network, its average and the mask."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    mask = magnitude_prune(model, Mask.ones_like(model), fraction=0.5)
    # A mask finds its parameters by name, and timm's param_groups_weight_decay drops the names.
    plain = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    free = {name for name, p in model.named_parameters() if p.dim() < 2 or name in plain}
    groups = [
        {"params": [each for each in model.named_parameters() if (each[0] in free) == without], "weight_decay": decay}
        for without, decay in ((False, 1e-4), (True, 0.0))
    ]
    optimizer = MaskedSGD(groups, lr=0.05, momentum=0.9, nesterov=True, mask=mask)
    schedule = CosineLRScheduler(optimizer, t_initial=steps, warmup_t=4, t_in_epochs=False)
    average = ModelEmaV3(model, decay=0.9)  # made after the optimizer: a copy of masked weights
    images = torch.nn.functional.interpolate(IMAGES.view(-1, 1, 8, 8), scale_factor=4)
    for step in range(steps):
        batch = torch.arange(step * 64, (step + 1) * 64) % len(LABELS)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images[batch]), LABELS[batch]).backward()
        optimizer.step()
        average.update(model, step)
        schedule.step_update(step + 1)
    return model, average.module, mask


if __name__ == "__main__":
    model, average, mask = train()
    print(f"{mask.size:,} weights, density {mask.density:.2f}, all masked weights zero: ", end="")
    print(all(not each.get_parameter(name)[~mask[name]].any() for name in mask for each in (model, average)))
