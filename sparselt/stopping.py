"""What signals ask of a process that trains: to save, or to save and end."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

STOPPED = 143  # exit code of a process that SIGTERM ended


class Signals:
    """SIGUSR1 asks trainings to save, SIGTERM to save and end. Without a training, SIGTERM ends the process at once.

    asked: how often a save has been asked for. stop: whether the process is to end. trainings: how many run in this
    process and will notice.
    """

    def __init__(self) -> None:
        self.asked, self.stop, self.trainings = 0, False, 0
        self._saved = 0

    def listen(self) -> None:
        """Takes over both signals of this process. A SIGUSR1 that came while it was starting counts."""
        signal.signal(signal.SIGUSR1, self._on_save)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})

    def saved(self) -> None:
        """A training has been saved. If the process is to end, it does when all are."""
        self._saved += self.stop
        if self.stop and self._saved >= self.trainings:
            self.end()

    def end(self) -> None:
        """Ends the process without unwinding, which would remove what has just been saved."""
        os._exit(STOPPED)

    def _on_save(self, number: int, frame: FrameType | None) -> None:
        self.asked += 1

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self.asked += 1
        self.stop = True
        if not self.trainings:
            self.end()


@contextlib.contextmanager
def starting_processes() -> Iterator[None]:
    """SIGUSR1 does not end a process that is started in the block: it waits until the process listens, if ever.

    Batch systems send it to every process of a job, also to those that are still importing.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent(signals: Signals) -> None:
    """Sets up a process that another one directs: it heeds `signals`, leaves Ctrl-C to the parent, ends with it."""
    signals.listen()
    # Ctrl-C reaches the whole process group; the parent decides what happens to the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A parent that was killed cannot stop its processes, and each holds hundreds of megabytes.
    parent = multiprocessing.parent_process()
    assert parent is not None, "a process that another one directs has a parent"
    parent.join()
    os._exit(1)


class Terminated(KeyboardInterrupt):
    """SIGTERM reached the process that directs a run: it ends as after Ctrl-C."""


@contextlib.contextmanager
def ending_with_its_code() -> Iterator[None]:
    """In the block SIGTERM raises Terminated. After SIGTERM or Ctrl-C has ended the block, the process ignores both.

    So it ends with an exit code that says why, however often it is asked to end. SIGUSR1, which asks trainings to save,
    does nothing where none runs (`directing` passes it on). Outside the main thread, where Python has no signals,
    nothing changes.
    """
    with _handling({signal.SIGTERM: _terminate, signal.SIGUSR1: lambda number, frame: None}):
        try:
            yield
        except KeyboardInterrupt:
            if _in_main_thread():
                for number in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(number, signal.SIG_IGN)
            raise


@contextlib.contextmanager
def directing(send: Callable[[int], None]) -> Iterator[None]:
    """In the block SIGTERM raises Terminated, and SIGUSR1 is passed on by `send`, which gets its number.

    Outside the main thread, where Python has no signals, nothing changes.
    """
    with _handling({signal.SIGTERM: _terminate, signal.SIGUSR1: lambda number, frame: send(number)}):
        yield


@contextlib.contextmanager
def holding_back() -> Iterator[None]:
    """In the block SIGTERM and Ctrl-C wait, for work that must not be left half done. After it the first one is raised.

    Outside the main thread, where Python has no signals, nothing changes.
    """
    came: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        came.append(number)

    with _handling({signal.SIGTERM: hold, signal.SIGINT: hold}):
        yield
    if came:
        signal.raise_signal(came[0])


@contextlib.contextmanager
def _handling(handlers: Mapping[int, Handler]) -> Iterator[None]:
    """In the block these handlers are in place. After it come those of before, unless the block has set another."""
    if not _in_main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handlers[number]:
                signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated
