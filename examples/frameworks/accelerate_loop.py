"""A masked network with Accelerate: accumulated gradients, clipping, and a saved state that resumes to the bit.

pip install accelerate
python examples/frameworks/accelerate_loop.py
"""

import torch
from accelerate import Accelerator
from loop import IMAGES, LABELS, network
from torch.utils.data import DataLoader, TensorDataset

from sparselt import Mask, MaskedSGD, magnitude_prune


def train(epochs: range, resumed: str | None = None, saved: str | None = None) -> torch.nn.Module:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = network()
    mask = magnitude_prune(model, Mask.ones_like(model), fraction=0.5)
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, mask=mask)
    data = DataLoader(TensorDataset(IMAGES[:1280], LABELS[:1280]), batch_size=32)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    if resumed:
        accelerator.load_state(resumed)
    for _ in epochs:
        for images, labels in data:
            with accelerator.accumulate(model):
                accelerator.backward(torch.nn.functional.cross_entropy(model(images), labels))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
    if saved:
        accelerator.save_state(saved)
    return accelerator.unwrap_model(model)


if __name__ == "__main__":
    train(range(2), saved="accelerate_state")
    model = train(range(2, 4), resumed="accelerate_state")
    print(f"training error {(model(IMAGES).argmax(1) != LABELS).float().mean():.2%}")
