"""FFCV 1.0.2 with workarounds for its faults; only this file and `decoder` import it.

- It sets torch's thread count on import, in every loader and in its worker thread: its setter is replaced.
- An exception in its worker thread leaves the consumer waiting for ever: the consumer watches the thread.
- Leaving an iteration early leaks the thread: `stop` ends it.
- Its batches are views of buffers that it overwrites: callers read each before they ask for the next.
- Two live iterations abort under Numba's workqueue layer: there, each decodes in one thread (`usable_threads`).
- It marks Numba's type of byte arrays as read-only for the whole process: its reader of samples is replaced.
- It compiles a typed dictionary on import, for two seconds and more, and reads it in Python only: it gets a plain one.
- Truncating a beton that it has mapped ends the process: the file's length is watched.
"""

import contextlib
import functools
import os
import queue
import warnings
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np

from sparselt.errors import DataError

_POLL_SECONDS = 0.1


@functools.cache
def require_ffcv():
    """The module ffcv, with torch's and Numba's thread counts left as they were; DataError where it is missing."""
    import numba
    import numba.typed
    import torch

    torch_threads, numba_threads = torch.get_num_threads(), numba.get_num_threads()
    typed_dictionary, numba.typed.Dict = numba.typed.Dict, dict
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ffcv
            import ffcv.fields
            import ffcv.loader
            import ffcv.writer
    except (ImportError, OSError) as error:
        raise DataError(
            f"FFCV cannot be imported ({error}): install it with `pip install sparselt[ffcv]`; its build needs "
            f"system libraries, which `sparselt doctor` names for apt, dnf and conda"
        ) from error
    finally:
        numba.typed.Dict = typed_dictionary
        torch.set_num_threads(torch_threads)
        numba.set_num_threads(numba_threads)

    def set_num_threads(cls, count: int) -> None:
        cls.num_threads = count if count >= 1 else os.cpu_count()
        numba.set_num_threads(cls.num_threads)

    def compile_reader(self):
        def read(address, storage):
            contents, addresses, sizes = storage
            place = np.searchsorted(addresses, address)
            return contents[address : address + sizes[place]]

        return numba.njit(nogil=True)(read)

    ffcv.pipeline.compiler.Compiler.set_num_threads = classmethod(set_num_threads)
    ffcv.memory_managers.OSCacheManager.compile_reader = compile_reader
    return ffcv


def usable_threads(asked: int) -> int:
    """At most Numba's threads; 1 where Numba only has its workqueue layer, which two threads crash."""
    from numba import config

    most = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # set while Numba is imported
    return min(asked, most) if _layer_is_threadsafe() else 1


def make_loader(path, batch_size: int, threads: int, decoder):
    """An FFCV loader of the field "image" alone, by `decoder`; labels come from the beton without compilation."""
    ffcv = require_ffcv()
    with _numba_threads_restored(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ffcv.loader.Loader(
            str(path),
            batch_size=batch_size,
            num_workers=threads,
            order=ffcv.loader.OrderOption.SEQUENTIAL,
            drop_last=False,
            batches_ahead=2,
            seed=0,
            pipelines={"label": None, "image": [decoder]},
        )


def iterate(loader, order: np.ndarray, prepare: Callable | None = None) -> Generator[np.ndarray]:
    """The decoded images of consecutive batches of `order`; each array is valid until the next one is asked for.

    Before the worker starts, `prepare(buffers)` fills the buffers that the decoder asked for. A decoder's
    `check(buffers, slot, indices)` refuses a bad batch. Closing or dropping the generator ends the worker. DataError,
    naming the batch, where the worker fails.
    """
    worker = None
    try:
        try:
            with _numba_threads_restored():
                worker = _worker_class()(loader, np.ascontiguousarray(order, dtype=np.int64), prepare)
        except (OSError, ValueError, IndexError) as error:
            raise DataError(f"{loader.fname} can no longer be read ({error}): write the data set again") from error
        yield from worker.batches()
    finally:
        if worker is not None:
            worker.stop()


@functools.cache
def _worker_class():
    require_ffcv()
    from ffcv.loader.epoch_iterator import EpochIterator

    class Worker(EpochIterator):
        """FFCV's worker thread for one pass over `order`."""

        iter_ixes: Any
        memory_allocations: Any

        def __init__(self, loader, order: np.ndarray, prepare):
            self.prepare = prepare
            self.failure: BaseException | None = None
            self.check: Callable[[int, np.ndarray], None] | None = None
            self.decoding, self.length = order[:0], os.stat(loader.fname).st_size
            super().__init__(loader, order)

        def start(self) -> None:
            # FFCV has allocated this pass's buffers by now and not yet read them.
            self.iter_ixes = self._until_stopped(self.iter_ixes)
            for node, buffers in self.memory_allocations["operation"].items():
                decoder = self.loader.graph.id_to_node[node].decoder
                if self.prepare is not None:
                    self.prepare(buffers)
                if hasattr(decoder, "check"):
                    self.check = functools.partial(decoder.check, buffers)
            super().start()

        def run(self) -> None:
            try:
                super().run()
            except BaseException as error:  # handed to the consumer, which raises it
                self.failure = error

        def batches(self) -> Iterator[np.ndarray]:
            position = 0
            while True:
                try:
                    item = self.output_queue.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    # The thread may have put its last batch between the time-out and its end.
                    if self.is_alive() or not self.output_queue.empty():
                        continue
                    raise self._failed() from self.failure
                if item is None:
                    return
                slot, (images,) = item
                indices = self.order[position : position + len(images)]
                position += len(images)
                if self.check is not None:
                    self.check(slot, indices)
                yield images

        def stop(self) -> None:
            self.terminate_event.set()
            while self.is_alive():
                with contextlib.suppress(queue.Empty):
                    self.output_queue.get_nowait()
                self.join(0.005)
            self.close()
            self.memory_allocations = self.check = None

        def _until_stopped(self, batches):
            for batch in batches:
                if self.terminate_event.is_set():
                    return
                self.decoding = batch
                _check_length(self.loader.fname, self.length, int(batch[0]))
                yield batch

        def _failed(self) -> DataError:
            if isinstance(self.failure, DataError):
                return self.failure
            some = ", ".join(str(int(index)) for index in self.decoding[:8])
            return DataError(
                f"{self.loader.fname}: the decoding thread ended early, in the batch of {len(self.decoding)} samples "
                f"{some}{', ...' if len(self.decoding) > 8 else ''}: {self.failure!r}"
            )

    return Worker


def _check_length(path: str, length: int, index: int) -> None:
    """Raises a DataError if a file has been truncated. Reading the lost part of a mapped file would end the process."""
    if os.stat(path).st_size < length:
        raise DataError(f"{path} was cut while it was read, before sample {index}: write the data set again")


@contextlib.contextmanager
def _numba_threads_restored():
    import numba

    before = numba.get_num_threads()
    try:
        yield
    finally:
        numba.set_num_threads(before)


@functools.cache
def _layer_is_threadsafe() -> bool:
    """Whether several threads may enter Numba's threading layer at once."""
    import numba
    from numba.np.ufunc import parallel

    try:
        parallel._launch_threads()  # as the first parallel function does; the layer is unknown before
        return numba.threading_layer() in ("tbb", "omp")
    except (AttributeError, ValueError, ImportError):
        return False
