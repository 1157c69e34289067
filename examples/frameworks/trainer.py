"""A masked network with the Trainer of Hugging Face transformers.

pip install transformers accelerate
python examples/frameworks/trainer.py
"""

import torch
from loop import IMAGES, LABELS, network
from transformers import Trainer, TrainingArguments

from sparselt import Mask, MaskedAdamW, magnitude_prune


class Digits(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, images, labels):
        logits = self.network(images)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def train(folder: str, steps: int = 40, resume: str | None = None) -> tuple[torch.nn.Module, Mask]:
    """resume: a folder checkpoint-N that an earlier call has saved."""
    model = Digits()
    mask = magnitude_prune(model, Mask.ones_like(model), fraction=0.5)
    optimizer = MaskedAdamW(model.named_parameters(), lr=3e-3, mask=mask)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    quiet = {"report_to": [], "disable_tqdm": True, "logging_strategy": "no", "use_cpu": True}
    arguments = TrainingArguments(folder, max_steps=steps, per_device_train_batch_size=64, save_steps=20, **quiet)
    data = [{"images": image, "labels": label} for image, label in zip(IMAGES, LABELS, strict=True)]
    Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, constant)).train(resume_from_checkpoint=resume)
    return model, mask


if __name__ == "__main__":
    model, mask = train("trainer_output")
    error = (model.network(IMAGES).argmax(1) != LABELS).float().mean()
    print(f"density {mask.density:.2f}, training error {error:.2%}")
