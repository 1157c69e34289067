"""A worker on a node of a Ray cluster.

It is an actor that holds what a stage declares, and a pool of one process, as a run on one machine makes it. So a stage
runs in the same kind of process, with the same set-up, whichever executor runs it. The actor does not unpickle what
passes through it, and loads no torch.
"""

import asyncio
import os
import pickle
import sys
from concurrent.futures import BrokenExecutor
from importlib.machinery import ModuleSpec
from typing import Any

from sparselt.runs.workers import Workers


class Place:
    """An actor: one worker process, on the node and with the resources that Ray gave it.

    Args:
        main: module name and file of the program that the user started; the worker process imports it, as on this
            machine, for stages that the user's script defines.
        folder, path: where it was started, and where it looks for modules.
        threads: its `OMP_NUM_THREADS`, which Ray has replaced.
    """

    def __init__(
        self,
        main: tuple[str | None, str | None],
        folder: str,
        path: list[str],
        threads: str | None,
        save_seconds: float,
        patience: float,
    ):
        program: Any = sys.modules["__main__"]
        name, program.__file__ = main
        program.__spec__ = None if name is None else ModuleSpec(name, None)
        os.chdir(folder)
        sys.path[:] = path + [there for there in sys.path if there not in path]
        os.environ.pop("OMP_NUM_THREADS", None)
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads
        self._workers = Workers(1, 1, (), save_seconds, patience)

    async def node(self) -> str:
        """The id of its node, once the worker process has answered."""
        import ray

        await asyncio.wrap_future(self._workers.submit(os.getpid))
        return ray.get_runtime_context().get_node_id()

    async def run(self, call: bytes) -> bytes | None:
        """The pickled result of a pickled call; None if the process was killed."""
        try:
            return await asyncio.wrap_future(self._workers.submit(perform, call))
        except BrokenExecutor:
            await asyncio.to_thread(self._workers.restart)
            return None

    async def progress(self) -> list[tuple[str, int]]:
        return list(self._workers.progress())

    async def signal(self, number: int) -> None:
        self._workers.signal(number)

    async def stop(self) -> None:
        await asyncio.to_thread(self._workers.stop)


def perform(call: bytes) -> bytes:
    """Runs a pickled call; its pickled result, and whether that is an exception which it raised."""
    try:
        function, arguments = pickle.loads(call)
        return pickle.dumps((function(*arguments), False))
    except Exception as error:
        return pickle.dumps((error, True))
