"""What saving a training of ResNet-50 costs: seconds a save, and their share of the time between two saves.

    python benchmarks/saving.py --out FILE

Saves the weights and the momentum of torchvision's ResNet-50 (SGD) on the CPU seven times, each with its checksum and
flushed to the disk, as a training does. On a GPU the copy to the host comes on top.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from sparselt.models import build_model
from sparselt.runs.workers import SAVE_SECONDS
from sparselt.stopping import Signals
from sparselt.training.progress import Progress, Saved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = build_model("resnet50", classes=1000, channels=3, seed=0)
    momentum = {f"{name}:momentum_buffer": torch.randn_like(p) for name, p in model.named_parameters()}
    seconds = []
    with tempfile.TemporaryDirectory(dir=options.out.parent if options.out else None) as folder:
        for step in range(7):
            signals = Signals()
            progress = Progress(Path(folder), 1e9, signals)
            signals.asked = 1
            began = time.perf_counter()
            progress.keep(step, lambda: Saved(0, model.state_dict(), momentum, torch.zeros(100)))
            seconds.append(time.perf_counter() - began)
        size = max(path.stat().st_size for path in Path(folder).iterdir())
    found = {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "bytes": size,
        "seconds_a_save": statistics.median(seconds),
        "slowest": max(seconds),
        "share_of_the_time_between_two_saves": statistics.median(seconds) / SAVE_SECONDS,
    }
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
