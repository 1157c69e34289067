"""What ranks exchange in a step: bytes and time for all gradients and for live ones, over this machine's loopback.

    python benchmarks/ranks.py --out FILE

ResNet-50 and ResNet-20 on 2 and 4 ranks of one thread each, with gloo; medians of nine interleaved exchanges.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from sparselt.stages import Stage, Task
from sparselt.stages.gang import train_in_gang

_STEPS = 9
_DENSITIES = (1.0, 0.5, 0.2, 0.05)


@dataclass(frozen=True, kw_only=True, eq=False)
class Exchange(Stage):
    """Adds up the gradients of a network, all and live ones in turn; rank 0 writes bytes and median seconds."""

    kind, title, unit = "exchange", "exchange gradients", "steps"

    model: str
    classes: int
    device: str = "cpu"

    def run(self, task: Task) -> int:
        import torch

        from sparselt import Mask, magnitude_prune
        from sparselt.models import build_model
        from sparselt.training.cpu import cpu_threads
        from sparselt.training.ranks import Ranks

        rows = []
        with cpu_threads(1):
            model = build_model(self.model, classes=self.classes, channels=3, seed=0)
            for density in _DENSITIES:
                mask = magnitude_prune(model, Mask.ones_like(model), fraction=1 - density) if density < 1 else None
                ways = {sent: Ranks(model, 1, mask, sent) for sent in ("all", "live")}
                seconds: dict[str, list[float]] = {sent: [] for sent in ways}
                for _ in range(_STEPS):
                    for sent, ranks in ways.items():
                        for parameter in model.parameters():
                            parameter.grad = torch.ones_like(parameter)
                        ranks.sums([0.0])  # so that all begin together
                        began = time.perf_counter()
                        ranks.add_up(torch.zeros(()))
                        seconds[sent].append(time.perf_counter() - began)
                for sent, ranks in ways.items():
                    median = statistics.median(seconds[sent][1:])
                    rows.append({"density": density, "sent": sent, "bytes": ranks.bytes_a_step, "seconds": median})
        if ways["all"].writes:
            (task.folder / "rows.json").write_text(json.dumps(rows))
        return len(rows)


def main() -> None:
    from sparselt.benchmarks.machine import machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = []
    for model, classes in (("resnet50", 1000), ("resnet20", 10)):
        for ranks in (2, 4):
            with tempfile.TemporaryDirectory() as folder:
                task = Task({}, frozenset(), Path(folder), lambda work: None)
                train_in_gang(Exchange(model=model, classes=classes), task, ranks)
                rows = json.loads(Path(folder, "rows.json").read_text())
            for row in rows:
                print(
                    f"{model:9} {ranks} ranks  density {row['density']:4}  {row['sent']:4}  "
                    f"{row['bytes'] / 1e6:8.2f} MB  {1000 * row['seconds']:8.2f} ms"
                )
                found.append({"model": model, "ranks": ranks, **row})
    if options.out:
        record = machine("cpu") | {"command": " ".join(["python", *sys.argv]), "exchanges": found}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
