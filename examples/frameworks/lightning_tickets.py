"""Lottery tickets with Lightning: a callback that rewinds to a step exactly and prunes, checkpoints that hold the mask.

pip install lightning
python examples/frameworks/lightning_tickets.py
"""

import lightning
import torch
from loop import IMAGES, LABELS, network
from torch.utils.data import DataLoader, TensorDataset

from sparselt import Mask, MaskedSGD, magnitude_prune


class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network, self.mask = network(), None

    def training_step(self, batch, index):
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.network(images), labels)

    def configure_optimizers(self):
        optimizer = MaskedSGD(self.named_parameters(), lr=0.1, momentum=0.9, mask=self.mask)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [60, 90])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class TicketCallback(lightning.Callback):
    """Saves the dense network at `rewind_step`, the last of an epoch, where each level starts; prunes after each."""

    def __init__(self, rewind_step: int, path: str, fraction: float = 0.2):
        self.rewind_step, self.path, self.fraction = rewind_step, path, fraction

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == self.rewind_step and module.mask is None:
            trainer.save_checkpoint(self.path)

    def on_load_checkpoint(self, trainer, module, checkpoint):
        if trainer.ckpt_path == self.path:  # rewound, not resumed: weights, schedule and data, but no momentum
            checkpoint["optimizer_states"] = [{**state, "state": {}} for state in checkpoint["optimizer_states"]]

    def on_train_end(self, trainer, module):
        module.mask = magnitude_prune(module, module.mask or Mask.ones_like(module), self.fraction)


def fit(module, callbacks, steps=120, resume=None):
    data = DataLoader(TensorDataset(IMAGES[:1280], LABELS[:1280]), batch_size=64)  # 20 steps an epoch
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_steps=steps, accelerator="cpu", callbacks=callbacks, gradient_clip_val=1.0, **quiet)
    trainer.fit(module, data, ckpt_path=resume)


if __name__ == "__main__":
    module, ticket = Digits(), TicketCallback(20, "rewind.ckpt", 0.5)
    for level in range(4):
        fit(module, [ticket], resume="rewind.ckpt" if level else None)
        error = (module.network(IMAGES).argmax(1) != LABELS).float().mean()
        print(f"level {level}: training error {error:.2%}; then pruned to density {module.mask.density:.2f}")
