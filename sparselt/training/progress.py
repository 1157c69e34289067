"""A training's progress on disk: a training that was killed goes on from it, to the bit."""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sparselt.errors import TrainingError
from sparselt.files import PROGRESS
from sparselt.stopping import Signals
from sparselt.training.ranks import Ranks

_SUFFIX = ".safetensors"
_KEPT = 2  # if the newest is damaged, the one before it serves
_SAVE, _STOP = 1, 2


@dataclass(frozen=True)
class Saved:
    """All that a training carries from step to step.

    step: steps of the full training that have been made. model, average: weights and buffers, of the network and of the
    average of weights, if there is one. optimizer: as `checkpoint.flat_state` names it. losses: of the last epoch's
    batches so far, float32 [steps].
    """

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    losses: Tensor
    average: Mapping[str, Tensor] = field(default_factory=dict)


class Progress:
    """Saves a training now and then, and if a signal asks for it, in files of the stage's unfinished folder.

    A file's name holds its step and the first digits of its SHA-256, so that a damaged one is noticed. Files appear
    whole, and are on the disk before an older one is removed.

    Args:
        folder: of the stage's files.
        seconds: the time between two saves.
        signals: what signals have asked of this process.
        usable: whether a training may go on from a step: False if a checkpoint that is wanted of an earlier step is
            missing.
        ranks: the processes that train the network together. All save at one step if one of them is due; the first
            writes, and all read what it has found whole.
    """

    def __init__(
        self,
        folder: Path,
        seconds: float,
        signals: Signals,
        usable: Callable[[int], bool] = lambda step: True,
        ranks: Ranks | None = None,
    ):
        self._folder, self._seconds, self._signals, self._usable = folder, seconds, signals, usable
        self._ranks = ranks
        self._before, self._answered = spent_before(folder), signals.asked
        self._began = self._last = time.monotonic()

    def restore(self) -> Saved | None:
        """The newest save that is whole and usable. A damaged one is set aside, with a line on standard error."""
        if self._ranks is None:
            return self._newest()
        saved = self._newest() if self._ranks.writes else None
        step = self._ranks.largest(saved.step if saved is not None else -1)
        if step >= 0 and saved is None:
            saved = next(_read(path, step) for path in _saves(self._folder) if _step(path) == step)
        return saved

    def _newest(self) -> Saved | None:
        for path in reversed(_saves(self._folder)):
            step, digest = _step(path), path.stem.split("-")[2]
            if _sha256(path)[: len(digest)] != digest:
                aside = path.with_name(f"damaged-{path.name}")
                os.replace(path, aside)
                print(f"{aside} is damaged: the training goes on from an earlier step", file=sys.stderr)
            elif self._usable(step):
                return _read(path, step)
        return None

    def keep(self, step: int, saved: Callable[[], Saved]) -> None:
        """Saves the training if it is time, or if a signal asked for it. Call it before each step.

        After a signal to stop, this process ends here, once all its trainings have been saved.

        Raises:
            TrainingError: a weight or buffer is not finite. The last save stays.
        """
        now = time.monotonic()
        asked = self._signals.asked
        due = self._answered != asked or now - self._last >= self._seconds
        wish = (_STOP if self._signals.stop else _SAVE) if due else 0
        if self._ranks is not None:
            wish = self._ranks.largest(wish)
            self._signals.stop |= wish == _STOP
        if not wish:
            return
        self._answered = asked
        state = saved()
        for name, tensor in state.model.items():
            if not torch.isfinite(tensor).all():
                kept = f"; its last save stays in {self._folder}" if _saves(self._folder) else ""
                raise TrainingError(
                    f"the training diverged: {name} is not finite at step {step}; lower the learning rate{kept}"
                )
        if self._ranks is not None:
            self._ranks.check_equal(step)
        if self._ranks is None or self._ranks.writes:
            self._write(step, state, self._before + now - self._began)
        self._last = time.monotonic()
        self._signals.saved()

    def clear(self) -> None:
        """Removes all saves: the training is done."""
        for path in self._folder.glob(f"*{PROGRESS}*"):
            path.unlink()

    def _write(self, step: int, saved: Saved, seconds: float) -> None:
        from safetensors.torch import save

        parts = {"model": saved.model, "optimizer": saved.optimizer, "average": saved.average}
        tensors = {f"{part}/{name}": tensor for part, held in parts.items() for name, tensor in held.items()}
        tensors["losses"] = saved.losses
        data = save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, {"seconds": str(seconds)}
        )
        earlier = _saves(self._folder)
        # Leading zeros make the names sort by step.
        name = f"{PROGRESS}{step:012}-{hashlib.sha256(data).hexdigest()[:16]}{_SUFFIX}"
        temporary = self._folder / f".{name}"
        temporary.write_bytes(data)
        for path in [temporary, *self._folder.iterdir()]:  # the checkpoints so far must be whole, too
            _flush(path)
        os.replace(temporary, self._folder / name)
        _flush(self._folder)
        for path in earlier[: 1 - _KEPT]:
            if path.name != name:
                path.unlink()


def spent_before(folder: Path) -> float:
    """The seconds that the training in a folder had taken at its newest save; 0 without one."""
    from safetensors import SafetensorError, safe_open

    for path in _saves(folder)[-1:]:
        try:
            with safe_open(path, framework="numpy") as file:
                return float((file.metadata() or {})["seconds"])
        except (OSError, SafetensorError, KeyError, ValueError):
            return 0.0
    return 0.0


def losses_of(losses: Sequence[Tensor]) -> Tensor:
    """float32 [steps]: losses of single batches as one tensor."""
    return torch.stack(list(losses)).float() if losses else torch.zeros(0)


def _saves(folder: Path) -> list[Path]:
    """From the oldest to the newest."""
    return sorted(folder.glob(f"{PROGRESS}*-*{_SUFFIX}"))


def _step(path: Path) -> int:
    return int(path.stem.split("-")[1])


def _read(path: Path, step: int) -> Saved:
    from safetensors.torch import load_file

    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "average": {}}
    tensors = load_file(path)
    losses = tensors.pop("losses")
    for name, tensor in tensors.items():
        part, _, name = name.partition("/")
        parts[part][name] = tensor
    return Saved(step, parts["model"], parts["optimizer"], losses, parts["average"])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
