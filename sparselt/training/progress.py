"""A training's progress on disk: a training that was killed goes on from it, to the bit."""

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sparselt.errors import TrainingError
from sparselt.files import DAMAGED, NO_ROOM, PROGRESS, is_progress, replacing
from sparselt.stopping import Signals
from sparselt.training.checkpoint import packed
from sparselt.training.ranks import Ranks

_SUFFIX = ".safetensors"
_NAME = re.compile(rf"{PROGRESS}\d{{12,}}-[0-9a-f]{{16}}{re.escape(_SUFFIX)}")
_KEPT = 2  # if the newest is damaged, the one before it serves
_SAVE, _STOP = 1, 2


class _NoSaveError(Exception):
    """A file that is named like a save, and is none."""


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

    A file's name holds its step and the first digits of its SHA-256, so that a damaged one is noticed. In it are the
    checksums of the checkpoints that stood beside it. Files appear whole, and are on the disk before an older one is
    removed.

    Args:
        folder: of the stage's files.
        seconds: the time between two saves.
        signals: what signals have asked of this process.
        usable: whether a training may go on from a step, given the names of the checkpoints that are intact: False if
            one that is wanted of an earlier step is not among them.
        ranks: the processes that train the network together. All save at one step if one of them is due; the first
            writes, and all read what it has found whole.
        written: SHA-256 of the checkpoints by their names; those of the save from which the training goes on are added.
    """

    def __init__(
        self,
        folder: Path,
        seconds: float,
        signals: Signals,
        usable: Callable[[int, Collection[str]], bool] = lambda step, made: True,
        ranks: Ranks | None = None,
        written: dict[str, str] | None = None,
    ):
        self._folder, self._seconds, self._signals, self._usable = folder, seconds, signals, usable
        self._ranks, self._written = ranks, {} if written is None else written
        self._warned = False
        self._before, self._answered = spent_before(folder), signals.asked
        self._began = self._last = time.monotonic()

    def restore(self) -> Saved | None:
        """The newest save that is whole and usable. What is damaged is named on standard error: saves, which are set
        aside, and checkpoints beside them, which are made again."""
        if self._ranks is None:
            return self._newest()
        saved = self._newest() if self._ranks.writes else None
        step = self._ranks.largest(saved.step if saved is not None else -1)
        if step >= 0 and saved is None:
            saved = next(_read(path, step) for path in _saves(self._folder) if _step(path) == step)
        return saved

    def _newest(self) -> Saved | None:
        saves, others = _saves(self._folder), _not_saves(self._folder)
        if not saves and not others:
            return None
        found, intact = None, dict[str, str]()
        # In the order in which they were found.
        damaged: dict[Path, None] = dict.fromkeys(map(_set_aside, others))
        for path in reversed(saves):
            step = _step(path)
            try:
                beside = _beside(path)
                intact = {name: told for name, told in beside.items() if _sha256(self._folder / name) == told}
                if self._usable(step, intact):
                    found = _read(path, step)
            except _NoSaveError:
                intact = {}
                damaged[_set_aside(path)] = None
                continue
            damaged |= {self._folder / name: None for name in beside if name not in intact}
            if found is not None:
                break
            intact = {}
            path.unlink()
        for path in damaged:
            whence = "begins again" if found is None else f"goes on from step {found.step}"
            print(f"{path} is damaged: the training {whence}", file=sys.stderr)
        self._keep_only(intact)
        return found

    def _keep_only(self, intact: Mapping[str, str]) -> None:
        """Removes all but the saves and what is intact beside them: nobody vouches for it."""
        for path in list(self._folder.iterdir()):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in intact and not is_progress(path.name):
                path.unlink()
        self._written.update(intact)

    def keep(self, step: int, saved: Callable[[], Saved]) -> None:
        """Saves the training if it is time, or if a signal asked for it. Call it before each step.

        If the disk is full, the training goes on without, and the first such save says so on standard error. After a
        signal to stop, this process ends here, once all its trainings have been saved, or cannot be.

        Raises:
            OSError: the folder cannot be written for another reason.
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
            try:
                self._write(step, state, self._before + now - self._began)
            except OSError as error:
                if error.errno not in NO_ROOM and not self._signals.stop:
                    raise
                self._warn(error)
        self._last = time.monotonic()
        self._signals.saved()

    def _warn(self, error: OSError) -> None:
        if self._warned:
            return
        self._warned = True
        saves = _saves(self._folder)
        whence = f"goes on from step {_step(saves[-1])}" if saves else "begins again"
        print(
            f"the progress of a training cannot be saved in {self._folder} ({error.strerror}): it trains on, and after "
            f"a stop it {whence}; make room on that file system",
            file=sys.stderr,
        )

    def _write(self, step: int, saved: Saved, seconds: float) -> None:
        parts = {"model": saved.model, "optimizer": saved.optimizer, "average": saved.average}
        tensors = {f"{part}/{name}": tensor for part, held in parts.items() for name, tensor in held.items()}
        tensors["losses"] = saved.losses
        data = packed(tensors, {"seconds": str(seconds), "beside": json.dumps(self._written)})
        earlier = _saves(self._folder)
        # Leading zeros make the names sort by step.
        name = f"{PROGRESS}{step:012}-{hashlib.sha256(data).hexdigest()[:16]}{_SUFFIX}"
        with replacing(self._folder / name) as temporary:
            temporary.write_bytes(data)
            for path in self._folder.iterdir():  # the checkpoints so far must be whole, too
                _flush(path)
        _flush(self._folder)
        for path in earlier[: 1 - _KEPT]:
            if path.name != name:
                path.unlink()


def spent_before(folder: Path) -> float:
    """The seconds that the training in a folder had taken at its newest save; 0 without one."""
    for path in _saves(folder)[-1:]:
        try:
            return float(_notes(path)["seconds"])
        except (KeyError, ValueError):
            return 0.0
    return 0.0


def losses_of(losses: Sequence[Tensor]) -> Tensor:
    """float32 [steps]: losses of single batches as one tensor."""
    return torch.stack(list(losses)).float() if losses else torch.zeros(0)


def _beside(save: Path) -> dict[str, str]:
    """SHA-256 of the checkpoints that stood beside a save, by their names. _NoSaveError if the save is damaged."""
    digest = save.stem.split("-")[2]
    if not _sha256(save).startswith(digest):
        raise _NoSaveError
    try:
        return dict(json.loads(_notes(save).get("beside", "{}")))
    except (ValueError, TypeError) as error:
        raise _NoSaveError from error


def _notes(save: Path) -> dict[str, str]:
    """The metadata of a save; empty if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(save, framework="numpy") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def _saves(folder: Path) -> list[Path]:
    """From the oldest to the newest."""
    return sorted(path for path in folder.glob(f"{PROGRESS}*") if _is_named_as_save(path))


def _not_saves(folder: Path) -> list[Path]:
    """What is named like a save and cannot be one: another name, or a folder."""
    return sorted(path for path in folder.glob(f"{PROGRESS}*") if not _is_named_as_save(path))


def _is_named_as_save(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None and path.is_file()


def _set_aside(path: Path) -> Path:
    """Renames what is not a save, so that nothing reads it as one. Returns its new path."""
    aside = path.with_name(DAMAGED + path.name)
    os.replace(path, aside)
    return aside


def _step(path: Path) -> int:
    return int(path.stem.split("-")[1])


def _read(path: Path, step: int) -> Saved:
    """Raises _NoSaveError for a file that holds something else."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "average": {}}
    try:
        tensors = load_file(path)
        losses = tensors.pop("losses")
        for name, tensor in tensors.items():
            part, _, name = name.partition("/")
            parts[part][name] = tensor
    except (SafetensorError, KeyError) as error:
        raise _NoSaveError from error
    return Saved(step, parts["model"], parts["optimizer"], losses, parts["average"])


def _sha256(path: Path) -> str:
    """Empty if there is no such file, or a folder in its place."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        return ""


def _flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
