"""Workers on the nodes of a Ray cluster. `execute` decides what runs; Ray only where.

One thread of this process talks with Ray. All that it does is an event: a call, the answer of an actor, a tick.
"""

import os
import pickle
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sparselt.errors import SettingError, StoreError
from sparselt.runs.claims import PATIENCE
from sparselt.runs.pool import NodeLost, Pool
from sparselt.runs.ray_nodes import Nodes, check_answers, check_installed, connect, disconnect, last_line
from sparselt.runs.ray_place import Place
from sparselt.runs.workers import SAVE_SECONDS, STOP_SECONDS
from sparselt.stages.resources import Resources
from sparselt.stages.stage import Stage

_TICK = 1.0  # seconds
_MOST = 4096
_FAILED_STARTS = 3
_NO_NODE_SECONDS = 600.0
_SILENT_SECONDS = 90.0  # Ray takes up to 30 to say that a node is lost


@dataclass(eq=False)
class _Call:
    content: bytes
    resources: Resources
    future: Future = field(default_factory=Future)


@dataclass(eq=False)
class _Slot:
    """An actor, its node once it has started, and what it runs."""

    actor: Any
    resources: Resources
    node: str = ""
    call: _Call | None = None


class RayWorkers(Pool):
    """A pool of workers on the nodes of a Ray cluster, which may come and go.

    Args:
        each: what one of the plan's trainings takes; the cluster serves as many stages at a time as it has room for
            such trainings.
        root: the store; None: nothing will be stored.
        address: see `sparselt.runs.ray_nodes.connect`.
        count: stages at a time, instead. Ray's autoscaler sees the demand.
        gpu_share: the part of a GPU that a rank on a GPU takes, in (0, 1].
        cohort, save_seconds, patience: see `Pool`.

    Raises:
        SettingError: bad values, or an address that does not answer; when entered, what `connect` and `Check` refuse,
            and a cluster without room.
    """

    def __init__(
        self,
        each: Resources,
        root: Path | None,
        address: str | None = None,
        count: int | None = None,
        gpu_share: float = 1.0,
        cohort: int | None = None,
        save_seconds: float = SAVE_SECONDS,
        patience: float = PATIENCE,
    ):
        super().__init__(cohort, save_seconds, patience)
        if count is not None and not 1 <= count <= _MOST:
            raise SettingError(f"number of workers is {count}; expected 1 to {_MOST}")
        if not 0 < gpu_share <= 1:
            raise SettingError(f"--gpu-share is {gpu_share:g}; expected more than 0 and at most 1")
        if address is not None:
            check_answers(address)
        check_installed()  # before the folder for results is made
        self._share, self._address, self._wanted = gpu_share, address, count
        self._each = self._shared(each)
        self._nodes = Nodes(root, self._each, lambda: self._events.put((self._met,)))
        self._slots: list[_Slot] = []
        self._calls: list[_Call] = []  # that wait for a slot
        self._silent: dict[_Slot, float] = {}  # whose connection is lost, and until when they are waited for
        self._failed_starts = 0
        self._events: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        self._progress: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._broken: Exception | None = None

    def __enter__(self) -> "RayWorkers":
        own = max(len(os.sched_getaffinity(0)), (self._wanted or 1) * self._each.all_cores)
        connect(self._address, own)
        try:
            self._nodes.admit()
            if not self.count:
                gpus = f" and {self._each.all_gpus:g} GPUs" if self._each.gpus else ""
                raise SettingError(
                    f"no node of the Ray cluster has {self._each.all_cores} cores{gpus}, which a training takes; give "
                    "--workers N if the cluster grows on demand"
                )
        except BaseException:
            disconnect(())
            raise
        self._thread.start()
        return self

    def __exit__(self, kind, *_) -> None:
        import ray

        self._events.put((None,))
        self._thread.join(STOP_SECONDS)
        try:
            if kind is not None:
                stopping = [slot.actor.stop.remote() for slot in self._slots if slot.call is not None]
                if stopping:
                    ray.wait(stopping, num_returns=len(stopping), timeout=STOP_SECONDS + 2)
        finally:
            disconnect(slot.actor for slot in self._slots)

    @property
    def gpu_share(self) -> float:
        return self._share

    @property
    def count(self) -> int:
        if self._wanted is not None:
            return self._wanted
        if not self._nodes.room and time.monotonic() - self._nodes.since > _NO_NODE_SECONDS:
            raise StoreError(
                "the Ray cluster has had no room for a training for ten minutes; what had finished is kept: run the "
                "same command again when its nodes are back"
            )
        return self._nodes.room

    def submit(self, function: Callable, *arguments) -> Future:
        if self._broken is not None:
            raise StoreError(
                f"the Ray cluster does not answer any more ({last_line(self._broken)}); what had finished is kept: run "
                "the same command again"
            ) from self._broken
        first = arguments[0] if arguments else None
        stage = first[0] if isinstance(first, list) else first
        resources = self._shared(stage.resources) if isinstance(stage, Stage) else self._each
        call = _Call(pickle.dumps((function, arguments)), resources)
        call.future.add_done_callback(self._note)
        self._events.put((self._called, call))
        return call.future

    def progress(self) -> Iterator[tuple[str, int]]:
        while not self._progress.empty():
            yield self._progress.get()

    def signal(self, number: int) -> None:
        self._events.put((self._send, number))

    def restart_after(self, dead: Future, running: Iterable[Future]) -> list[Future]:
        return [dead]

    def _shared(self, resources: Resources) -> Resources:
        return replace(resources, gpus=self._share * resources.gpus)

    # What follows runs in the thread that talks with Ray.

    def _work(self) -> None:
        following = time.monotonic() + _TICK
        while True:
            try:
                action, *arguments = self._events.get(timeout=max(0.0, following - time.monotonic()))
            except queue.Empty:
                action, arguments = self._tick, []
            if action is None:
                return
            try:
                if time.monotonic() >= following:
                    following = time.monotonic() + _TICK
                    self._tick()
                if action != self._tick:
                    action(*arguments)
            except Exception as error:  # of Ray: whoever waits has to know
                self._broken = error
                for call in [*self._calls, *(slot.call for slot in self._slots if slot.call is not None)]:
                    if not call.future.done():
                        call.future.set_exception(StoreError(f"the Ray cluster does not answer: {last_line(error)}"))

    def _called(self, call: _Call) -> None:
        self._calls.append(call)
        self._assign()

    def _assign(self) -> None:
        """Gives calls to idle slots, and starts slots for the others."""
        for call in list(self._calls):
            fitting = [slot for slot in self._idle() if call.resources.within(slot.resources)]
            if fitting:
                slot = min(fitting, key=lambda slot: (slot.resources.all_gpus, slot.resources.all_cores))
                self._calls.remove(call)
                slot.call = call
                self._ask(slot, slot.actor.run.remote(call.content), self._answered, call)
        if self._calls:  # what is idle now is too small, and may take what they need
            for slot in self._idle():
                self._close(slot)
        starting = Counter(slot.resources for slot in self._slots if slot.node not in self._nodes.good)
        for resources, calls in Counter(call.resources for call in self._calls).items():
            for _ in range(calls - starting[resources]):
                self._open(resources)

    def _idle(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.node in self._nodes.good and slot.call is None]

    def _open(self, resources: Resources) -> None:
        import ray

        program = sys.modules["__main__"]
        spec, file = getattr(program, "__spec__", None), getattr(program, "__file__", None)
        main = (spec.name, None) if spec is not None else (None, None if file is None else os.path.abspath(file))
        away = {"ray.io/node-id": f"!in({','.join(sorted(self._nodes.refused))})"} if self._nodes.refused else None
        options = {"num_cpus": resources.all_cores, "num_gpus": resources.all_gpus, "label_selector": away}
        place = (main, os.getcwd(), sys.path, os.environ.get("OMP_NUM_THREADS"), self._save_seconds, self._patience)
        actor: Any = ray.remote(Place).options(**options).remote(*place)
        slot = _Slot(actor, resources)
        self._slots.append(slot)
        self._ask(slot, actor.node.remote(), self._started)

    def _close(self, slot: _Slot) -> None:
        import ray

        self._slots.remove(slot)
        ray.kill(slot.actor)

    def _ask(self, slot: _Slot, answer: Any, action: Callable, *arguments) -> None:
        """Queues an event for when the actor has answered."""
        answer.future().add_done_callback(lambda future: self._events.put((action, slot, future, *arguments)))

    def _started(self, slot: _Slot, answer: Future) -> None:
        if slot not in self._slots:
            return
        if (error := answer.exception()) is None:
            slot.node, self._failed_starts, self.ever_worked = answer.result(), 0, True
            if slot.node in self._nodes.refused:
                self._close(slot)
        else:
            self._close(slot)
            self._failed_starts += 1
            if self._failed_starts >= _FAILED_STARTS:
                calls, self._calls, self._failed_starts = self._calls, [], 0
                for call in calls:
                    call.future.set_exception(BrokenExecutor(f"Ray cannot start a worker: {last_line(error)}"))
        self._assign()

    def _answered(self, slot: _Slot, answer: Future, call: _Call) -> None:
        from ray.exceptions import ActorUnavailableError

        if slot.call is not call:
            return  # its node was lost
        error = answer.exception()
        if isinstance(error, ActorUnavailableError):  # its node may be lost, which Ray finds out later
            self._silent[slot] = time.monotonic() + _SILENT_SECONDS
        elif error is not None:  # the call's own error would come as its result
            self._lost(slot, error)
        else:
            slot.call = None
            if (content := answer.result()) is None:
                call.future.set_exception(BrokenExecutor("the worker process was killed"))
            else:
                result, raised = pickle.loads(content)
                (call.future.set_exception if raised else call.future.set_result)(result)
            self._assign()

    def _lost(self, slot: _Slot, error: BaseException | str) -> None:
        """Ends a slot whose actor is gone, and the call in it."""
        call, slot.call = slot.call, None
        self._silent.pop(slot, None)
        self._close(slot)
        there = slot.node in {node.id for node in self._nodes.look()}
        if call is not None:
            call.future.set_exception(BrokenExecutor(str(error)) if there else NodeLost("its node was lost"))
        self._assign()

    def _send(self, number: int) -> None:
        for slot in self._slots:
            if slot.call is not None:
                slot.actor.signal.remote(number)

    def _tick(self) -> None:
        there = {node.id for node in self._nodes.look()}
        now = time.monotonic()
        gone = [s for s in self._slots if s.node and (s.node not in there or now > self._silent.get(s, now))]
        for slot in gone:
            if slot in self._slots:  # a call that waits may have closed it
                self._lost(slot, "the connection to its worker was lost")
        for slot in self._slots:
            if slot.call is not None and slot not in self._silent:
                self._ask(slot, slot.actor.progress.remote(), self._progressed, slot.call)

    def _progressed(self, slot: _Slot, answer: Future, call: _Call) -> None:
        if slot.call is call and answer.exception() is None:
            for done in answer.result():
                self._progress.put(done)

    def _met(self) -> None:
        """Handles the end of a check of nodes that have joined."""
        for slot in [slot for slot in self._slots if slot.node in self._nodes.refused]:
            self._close(slot)
        self._assign()
