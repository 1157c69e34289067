"""The speeds that the project aims for, and whether a run reaches them. They are shown, never asserted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """`rival` takes at least `ratio` times as long as ours, in records of `kernel` on `device` that agree with `where`.

    device: "cpu" or "gpu". floor: instead of a rival, the least share of the bandwidth floor that ours must reach.
    """

    kernel: str
    device: str
    where: Mapping[str, object]
    rival: str = ""
    ratio: float = 0.0
    floor: float = 0.0

    def concerns(self, record: Mapping) -> bool:
        """Whether this record decides about the target."""
        if record["kernel"] != self.kernel or (record["device"] != "cpu") != (self.device == "gpu"):
            return False
        if any(record[name] != value for name, value in self.where.items()):
            return False
        return bool(record["ours"]) if self.floor else record["who"] == self.rival

    def verdict(self, record: Mapping) -> tuple[str, float | None, bool]:
        """The wanted number, the measured number, and whether it is enough."""
        if self.floor:
            found = record["floor_fraction"]
            return f"≥ {self.floor:.0%}", found, found is not None and found >= self.floor
        return f"≥ {self.ratio:g}×", record["ratio"], record["ratio"] >= self.ratio


_FUSED, _DENSE, _FUSED_ADAM = "fused SGD + mask", "fused SGD, dense", "fused Adam + mask"
_DENSE_STEP, _DENSE_BFLOAT16 = "dense, channels last", "dense, bfloat16"
_LARGE, _LOOP = "ResNet-50, path", "lerp-and-mask loop"

TARGETS = (
    Target("masked_sgd", "cpu", {"case": "ResNet-50", "density": 1.0}, _FUSED, 1.5),
    Target("masked_sgd", "cpu", {"case": "ResNet-20"}, _FUSED, 2.0),
    Target("masked_sgd", "cpu", {"case": "ResNet-20, warm caches"}, _FUSED, 2.0),
    Target("masked_adam", "cpu", {"case": "ResNet-50", "density": 1.0}, _FUSED_ADAM, 1.4),
    Target("masked_adam", "cpu", {"case": "LeNet-300-100"}, _FUSED_ADAM, 1.8),
    Target("masked_adam", "cpu", {"case": "LeNet-300-100, warm caches"}, _FUSED_ADAM, 1.8),
    Target("interpolate", "cpu", {"case": _LARGE, "K": 9}, _LOOP, 2.0),
    Target("interpolate", "cpu", {"case": _LARGE, "K": 30}, _LOOP, 2.5),
    Target("magnitude_threshold", "cpu", {"case": "ResNet-50, density 1"}, "numpy.sort", 5.0),
    Target("magnitude_threshold", "cpu", {"case": "ResNet-50, density 1"}, "torch.kthvalue", 1.5),
    Target("augment", "cpu", {"case": "batch of 128"}, "torchvision, per image", 20.0),
    Target("augment", "cpu", {"case": "batch of 512"}, "torchvision, per image", 20.0),
    Target("data", "cpu", {"case": "JPEG to 176 px, ffcv"}, "torchvision", 2.5),
    Target("data", "cpu", {"case": "the same operations as FFCV"}, "FFCV as it comes", 0.95),
    Target("data", "cpu", {"case": "CIFAR batch of 128"}, "torchvision", 30.0),
    Target("data", "cpu", {"case": "CIFAR batch of 512"}, "torchvision", 30.0),
    Target("path", "cpu", {"case": "ResNet-20, float32"}, "plain loop", 2.0),
    Target("path", "cpu", {"case": "ResNet-20, bfloat16"}, "plain loop", 3.0),
    Target("path", "cpu", {"case": "ResNet-20, float32, one thread"}, "plain loop", 2.0),
    Target("path", "cpu", {"case": "ResNet-20, bfloat16, one thread"}, "plain loop", 3.0),
    *(
        Target("path", "cpu", {"case": f"ResNet-20, {precision} by Winograd's algorithm{threads}"}, "plain loop", least)
        for precision, least in (("float32", 2.0), ("bfloat16", 3.0))
        for threads in ("", ", one thread")
    ),
    Target("sparse_step", "cpu", {"case": "digits ResNet-8, batch 64", "density": 0.2}, _DENSE_STEP, 3.0),
    Target("sparse_step", "cpu", {"case": "digits ResNet-8, batch 64", "density": 0.07}, _DENSE_STEP, 4.0),
    Target("sparse_step", "cpu", {"case": "ResNet-20, batch 128", "density": 0.1}, _DENSE_STEP, 2.5),
    Target("sparse_step", "cpu", {"case": "ResNet-20, batch 128", "density": 0.1}, _DENSE_BFLOAT16, 1.4),
    Target("sparse_step", "cpu", {"case": "ResNet-20, batch 128", "density": 0.05}, _DENSE_BFLOAT16, 1.8),
    Target("sparse_step", "cpu", {"case": "LeNet-300-100, batch 60", "density": 0.05}, _DENSE_STEP, 2.5),
    *(
        Target("norm_act", "cpu", {"case": f"{shape}, batch 128, {dtype}{added}"}, "torch", 2.0)
        for shape in ("16 channels, 32 px", "32 channels, 16 px", "64 channels, 8 px")
        for dtype in ("float32", "bfloat16")
        for added in ("", ", with addition")
    ),
    Target("norm_act", "cpu", {"case": "ResNet-20 step, bfloat16"}, "without", 1.12),
    Target("masked_sgd", "gpu", {"case": "ResNet-50", "density": 1.0}, _FUSED, 1.5),
    Target("masked_sgd", "gpu", {"case": "ResNet-50", "density": 1.0}, floor=0.85),
    Target("masked_sgd", "gpu", {"case": "ResNet-50", "density": 0.05}, _DENSE, 1.7),
    Target("masked_sgd", "gpu", {"case": "ResNet-50", "density": 0.01}, _DENSE, 4.0),
    Target("masked_sgd", "gpu", {"case": "ResNet-20", "clock": "graph"}, _FUSED, 2.0),
    Target("interpolate", "gpu", {"case": _LARGE, "K": 9}, _LOOP, 2.3),
    Target("interpolate", "gpu", {"case": _LARGE, "K": 30}, _LOOP, 2.8),
    Target("interpolate", "gpu", {"case": _LARGE, "K": 30}, floor=0.85),
    Target("magnitude_threshold", "gpu", {"case": "ResNet-50, density 1"}, "torch.sort", 5.0),
    Target("augment", "gpu", {"case": "batch of 128"}, "torchvision v2, batch", 5.0),
)


def verdict(record: Mapping) -> str:
    """The verdict of the targets on a record, such as `≥ 1.5× met`; empty if no target concerns it."""
    said = []
    for target in TARGETS:
        if target.concerns(record):
            wanted, _, met = target.verdict(record)
            said.append(f"{wanted} {'met' if met else 'missed'}")
    return ", ".join(said)


def check(records: Iterable[Mapping]) -> list[dict]:
    """Every target that a record decides about: kernel, case, density, K, rival, wanted, found, met."""
    checked = []
    for record in records:
        for target in TARGETS:
            if target.concerns(record):
                wanted, found, met = target.verdict(record)
                rival = target.rival or f"the time of moving its bytes ({record['probe']})"
                place = {name: record[name] for name in ("kernel", "case", "density", "K", "clock")}
                checked.append({**place, "rival": rival, "wanted": wanted, "found": found, "met": met})
    return checked
