"""One training in several processes: starts its ranks, watches them, and ends all of them if one is lost.

The ranks are processes of this machine, which this module starts; or, under torchrun, one process for each of its own.
"""

import contextlib
import itertools
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparselt.errors import SettingError, SparseltError
from sparselt.stages.stage import Stage, Task
from sparselt.stopping import Signals, follow_parent, starting_processes

if TYPE_CHECKING:
    from torch.distributed import Store

_POLL = 0.2  # seconds
_GRACE = 2.0  # seconds for the other ranks to say what went wrong, before they are killed
_SILENCE = timedelta(minutes=30)  # until an exchange counts as hung; a lost rank is noticed at once
_LONG = timedelta(days=365)
_FAILED = "failed"


@dataclass(frozen=True)
class Torchrun:
    """This process's place among those that torchrun started."""

    rank: int
    count: int
    local: int

    @classmethod
    def current(cls) -> "Torchrun | None":
        """None where torchrun has not started this process."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return None
        return cls(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))

    def store(self) -> "Store":
        """The store through which all of torchrun's processes share values."""
        from torch.distributed import TCPStore

        return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=_LONG)


@dataclass(frozen=True)
class _Place:
    """Where the ranks of one training meet: a file of this machine, or torchrun's store under a name."""

    name: str
    file: str = ""

    def store(self, count: int) -> "Store":
        from torch.distributed import FileStore, PrefixStore

        if self.file:
            return FileStore(self.file, count)
        torchrun = Torchrun.current()
        assert torchrun is not None, "only torchrun's ranks meet without a file"
        return PrefixStore(self.name, torchrun.store())


class _Rank:
    """A process of this machine that is a rank of one training after another, and what it has said of this one."""

    def __init__(self, number: int):
        context = get_context("spawn")
        self.number, (self.connection, theirs) = number, context.Pipe()
        self.work: int | None = None
        self.written: dict[str, str] = {}
        self.error: Exception | None = None
        self.process = context.Process(target=_be_rank, args=(number, theirs), daemon=True)
        with starting_processes():
            self.process.start()
        theirs.close()

    def train(self, count: int, place: _Place, stage: Stage, parts: dict[str, Any]) -> None:
        self.work = self.error = None
        with contextlib.suppress(OSError):  # it has been lost meanwhile
            self.connection.send((count, place, stage, parts))

    @property
    def lost(self) -> bool:
        """Whether it has ended without a word."""
        return self.process.exitcode is not None and self.work is None and self.error is None

    def listen(self, report: Callable[[int], None]) -> None:
        with contextlib.suppress(EOFError, OSError):
            while self.connection.poll():
                kind, content = self.connection.recv()
                if kind == "steps":
                    report(content)
                else:
                    setattr(self, kind, content)

    def send(self, number: int) -> None:
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


_ranks: list[_Rank] = []  # kept for the next training, because a process takes seconds to start


def in_gang() -> bool:
    """Whether this process is a rank of a training."""
    from torch import distributed

    return distributed.is_available() and distributed.is_initialized()


def train_in_gang(stage: Stage, task: Task, count: int) -> int:
    """Runs `stage.run` in `count` processes together; returns the work of the first.

    Raises:
        ChildProcessError: a process was lost.
        Exception: the error of a rank.
    """
    torchrun = Torchrun.current()
    if torchrun is None:
        with tempfile.TemporaryDirectory() as folder:
            return _run(stage, task, count, range(count), _Place("ranks", str(Path(folder, "meeting"))))
    store = torchrun.store()
    name = f"training-{store.add('trainings', 1)}"
    store.set(name, pickle.dumps((stage, _portable(task))))  # type: ignore[arg-type]  # it takes bytes
    return _run(stage, task, count, [torchrun.rank], _Place(name))


@contextlib.contextmanager
def leading(ranks: int, workers: int | None) -> Iterator[bool]:
    """In the block this process directs a run, whose trainings torchrun's other processes join. Gives False in those:
    they have joined all trainings, and there is nothing left to do. Without torchrun nothing happens.

    Raises:
        SettingError: torchrun has started another number of processes than `ranks`, or `workers` is not 1.
    """
    torchrun = Torchrun.current()
    if torchrun is None:
        yield True
        return
    if torchrun.count != ranks:
        raise SettingError(
            f"torchrun has started {torchrun.count} processes, but ranks is {ranks}; give --ranks {torchrun.count}"
        )
    if workers not in (None, 1):
        raise SettingError(f"workers is {workers}; expected 1 under torchrun, whose processes train one network")
    from torch.distributed import rendezvous

    store, *_ = next(rendezvous("env://", timeout=_LONG))  # starts the store, if torchrun's agent has not
    if torchrun.rank:
        _follow(torchrun, torchrun.store())
        yield False
        return
    try:
        yield True
    finally:
        store.set(f"training-{store.add('trainings', 1)}", b"")


def _follow(torchrun: Torchrun, store: "Store") -> None:
    """Joins one training after the other, until the first rank says that there are no more."""
    signals = Signals()
    signals.listen()
    for number in itertools.count(1):
        name = f"training-{number}"
        store.wait([name], _LONG)
        if not (announced := store.get(name)):
            return
        stage, parts = pickle.loads(announced)
        signals.trainings = 0
        with contextlib.suppress(Exception):  # the first rank reports it
            task = Task(report=lambda work: None, signals=signals, **parts)
            _run(stage, task, torchrun.count, [torchrun.rank], _Place(name))


def _portable(task: Task) -> dict[str, Any]:
    """The arguments of a task that another process can be given."""
    return {name: getattr(task, name) for name in ("paths", "outputs", "folder", "save_seconds")}


def _run(stage: Stage, task: Task, count: int, numbers: Sequence[int], place: _Place) -> int:
    """Trains with the ranks `numbers` of `count`, which are processes of this machine, and watches them."""
    elsewhere = None if place.file else place.store(count)
    try:
        if [rank.number for rank in _ranks] != list(numbers):
            _end_ranks()
            _ranks.extend(map(_Rank, numbers))
        for rank in _ranks:
            rank.train(count, place, stage, _portable(task))
        task.signals.trainings += 1
        work = _watch(_ranks, count, task, elsewhere)
        task.written.update(_ranks[0].written)
        return work
    except BaseException as error:
        if elsewhere is not None:
            elsewhere.set(_FAILED, str(error))
        _end_ranks()
        raise


def _end_ranks() -> None:
    for rank in _ranks:
        rank.end()
    _ranks.clear()


def _watch(ranks: list[_Rank], count: int, task: Task, elsewhere: "Store | None") -> int:
    """Waits until all ranks are done, and passes signals on to them."""
    passed, trouble = task.signals.asked, None
    while not all(rank.work is not None for rank in ranks):
        wait([rank.connection for rank in ranks if not rank.lost], _POLL)
        for rank in ranks:
            rank.listen(task.report)
        if passed != task.signals.asked:
            passed = task.signals.asked
            for rank in ranks:
                rank.send(signal.SIGTERM if task.signals.stop else signal.SIGUSR1)
        if task.signals.stop and all(rank.process.exitcode is not None for rank in ranks):
            task.signals.end()
        failed = elsewhere is not None and elsewhere.check([_FAILED])
        if not failed and not any(rank.lost or rank.error is not None for rank in ranks):
            trouble = None
        elif trouble is None:
            trouble = time.monotonic()
        if trouble is not None and time.monotonic() > trouble + _GRACE and not task.signals.stop:
            raise _worst(ranks, count, elsewhere.get(_FAILED).decode() if elsewhere is not None and failed else "")
    return ranks[0].work or 0


def _worst(ranks: list[_Rank], count: int, elsewhere: str) -> Exception:
    """The error to report. Most others only say that a connection was closed."""
    errors = [rank.error for rank in ranks if rank.error is not None]
    for error in errors:
        if isinstance(error, SparseltError | MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return error
    for rank in ranks:
        if rank.lost:
            code = rank.process.exitcode or 0
            how = f"was killed by signal {-code} (out of memory?)" if code < 0 else f"ended with exit code {code}"
            return ChildProcessError(f"rank {rank.number} of {count} {how}; all ranks were ended")
    return ChildProcessError(elsewhere) if elsewhere or not errors else errors[0]


def _be_rank(number: int, to: Connection) -> None:
    """The process of one rank: makes its share of the trainings that it is sent."""
    import torch

    from sparselt.training.cpu import keep_memory, set_arithmetic

    signals = Signals()
    follow_parent(signals)
    set_arithmetic()
    keep_memory()
    while True:
        try:
            count, place, stage, parts = to.recv()
        except EOFError:
            return
        if stage.device == "cuda":
            torch.cuda.set_device(number if place.file else int(os.environ["LOCAL_RANK"]))
        told = 0.0

        def report(work: int) -> None:
            nonlocal told
            if number == 0 and time.monotonic() - told > _POLL:
                told = time.monotonic()
                to.send(("steps", work))

        try:
            with _group(number, count, place, stage.device):
                task = Task(report=report, signals=signals, **parts)
                work = stage.run(task)
            to.send(("written", task.written))
            to.send(("work", work))
        except Exception as error:
            told_of = "".join(traceback.format_exception(error)).strip()
            to.send(("error", error if _crosses(error) else RuntimeError(f"rank {number} of {count}: {told_of}")))
        signals.trainings = 0


@contextlib.contextmanager
def _group(number: int, count: int, place: _Place, device: str) -> Iterator[None]:
    """In the block this process is rank `number` of torch.distributed's default group."""
    from torch import distributed
    from torch.distributed import nn  # noqa: F401  First imported inside the group, as by torch.compile, it keeps the group.

    if place.file:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # otherwise the name of this machine must resolve
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        store=place.store(count),
        rank=number,
        world_size=count,
        timeout=_SILENCE,
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _crosses(error: Exception) -> bool:
    """Whether the error can be pickled for another process."""
    try:
        return isinstance(error, SparseltError | OSError | MemoryError) and bool(pickle.loads(pickle.dumps(error)))
    except Exception:
        return False
