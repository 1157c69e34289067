"""Who works on what, where several runs share a store: claims that need neither locks nor clocks that agree.

A claim is a folder `<name>/` with two entries:

- `work-<token>/`: the files made so far. The token is drawn anew by every holder.
- `owner-<token>.json`: who the holder is. The holder touches it every few seconds. Without it the work is free.

Each change of hands is one rename of a folder, which exactly one process wins on every file system, network file
systems included. A new claim is a whole folder that is moved to its name. A claim is taken over by renaming its
`work-<token>`; what its former holder writes afterwards finds no folder and fails.

A holder is gone if its process has ended, which can be seen on the same machine, or if the time of its file has not
changed for a while (`patience`) on the clock of the process that looks. Times of different machines are never compared.
"""

import contextlib
import errno
import json
import math
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path

from sparselt.errors import SettingError
from sparselt.files import NO_ROOM, names_in, read_object

PATIENCE = 120.0
"""Seconds. Network file systems may show a change as late as 60 s after it was made."""
FREEING = "freeing"
"""The claim of whoever deletes what no run needs. A run that begins meanwhile waits for its end."""
_WORK, _OWNER, _NEW = "work-", "owner-", ".new-"
_BEATS = 12  # in the time of `patience`
_LONGEST_PAUSE = 1.0  # seconds
_UNWRITABLE = NO_ROOM | {errno.EROFS}  # no sign of another process


class _Heart:
    """Touches the files of this process's claims when they are due, in one thread for all of them."""

    def __init__(self) -> None:
        self._due: dict[Path, tuple[float, float]] = {}  # the time between two touches, and when the next is due
        self._sooner = threading.Event()
        self._pause = _LONGEST_PAUSE
        self._thread: threading.Thread | None = None

    def add(self, owner: Path, beat: float) -> None:
        self._due[owner] = beat, time.monotonic() + beat
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        elif beat < self._pause:
            self._sooner.set()

    def remove(self, owner: Path) -> None:
        self._due.pop(owner, None)

    def _run(self) -> None:
        while True:
            self._pause = min([_LONGEST_PAUSE, *(beat for beat, _ in list(self._due.values()))])
            self._sooner.wait(self._pause)
            self._sooner.clear()
            now = time.monotonic()
            for owner, (beat, due) in list(self._due.items()):
                if due > now:
                    continue
                self._due[owner] = beat, now + beat
                try:
                    os.utime(owner)
                except FileNotFoundError:  # the claim has ended, or is lost
                    self._due.pop(owner, None)
                except OSError:  # the file system is away for a moment
                    pass


_heart = _Heart()


class Claim:
    """A claim that this process holds. A thread shows that it is alive until `leave`.

    folder: for the files of the work; those of a former holder may stand in it.
    """

    def __init__(self, folder: Path, beat: float):
        self.folder = folder
        self._owner = _owner_of(folder)
        _heart.add(self._owner, beat)

    @property
    def lost(self) -> bool:
        """Whether another process has taken the work over, or it has been moved away."""
        return not self.folder.exists()

    def leave(self, keep: bool) -> None:
        """Ends the claim. keep: leave the files for whoever claims the work next."""
        _heart.remove(self._owner)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # a file system that has become read-only has said so before
            self._owner.unlink(missing_ok=True)
            self.folder.parent.rmdir()  # only an empty one


class Claims:
    """The claims in a folder, made if it is missing.

    Args:
        folder: on the file system to which the finished work will be moved.
        patience: seconds without a sign of life after which a holder counts as gone; above 0.
    """

    def __init__(self, folder: Path, patience: float = PATIENCE):
        if not 0 < patience < math.inf:
            raise SettingError(f"patience is {patience:g} s; expected more than 0")
        self._folder, self._patience = folder, patience
        # The time of a file, when it was first seen with it, and whether it had another before.
        self._seen: dict[Path, tuple[int, float, bool]] = {}

    def take(self, name: str) -> Claim | None:
        """Claims the work `name`; None while another process has it. OSError if the folder cannot be written."""
        place, token = self._folder / name, uuid.uuid4().hex[:16]
        self._folder.mkdir(exist_ok=True)
        for _ in range(3):  # what was found can change before the rename
            if self.taken(name):
                return None
            work = work_in(place)
            if _made(place, token) if work is None else _taken_over(place, work, token):
                return Claim(place / f"{_WORK}{token}", self._patience / _BEATS)
        return None

    def taken(self, name: str) -> bool:
        """Whether another process works on `name`. A holder that is gone loses its claim here."""
        work = work_in(self._folder / name)
        if work is None or not (owner := _owner_of(work)).exists():
            return False
        if not self._gone(owner):
            return True
        with contextlib.suppress(OSError):  # another process was first, or the holder has ended its work meanwhile
            os.rename(work, work.with_name(_WORK + uuid.uuid4().hex[:16]))
            owner.unlink(missing_ok=True)
        return False

    def shows_life(self, name: str) -> bool:
        """Whether somebody works on `name`. Waits up to `patience` for a sign of life from another machine."""
        work = work_in(self._folder / name)
        owner = None if work is None else _owner_of(work)
        if owner is None or not self.taken(name):
            return False
        if read_object(owner).get("machine") == _machine():
            return True
        while self.taken(name):
            if self._seen[owner][2]:
                return True
            time.sleep(min(1.0, self._patience / _BEATS))
        return False

    def started(self, name: str, holds: Callable[[Path], bool]) -> bool:
        """Whether `name` has been begun, and `holds` is true of the folder of its files."""
        work = work_in(self._folder / name)
        return work is not None and holds(work)

    def sweep(self, of_use: Callable[[str, Path], bool]) -> None:
        """Deletes the work of holders that are gone, unless `of_use(name, folder)`."""
        for place in sorted(self._folder.iterdir()) if self._folder.exists() else ():
            work = work_in(place)
            if place.name.startswith(_NEW) or (work is None and not _is_empty(place)):
                self._sweep_stray(place)
            elif not self.taken(place.name):  # which renames what a dead process had
                work = work_in(place)
                claim = None if work is not None and of_use(place.name, work) else self.take(place.name)
                if claim is not None:
                    claim.leave(keep=False)

    def _sweep_stray(self, place: Path) -> None:
        """Deletes what is no claim: one that was killed while it was made, or files of an earlier version."""
        owners = [place / name for name in names_in(place) if name.startswith(_OWNER)]
        if self._gone(owners[0] if owners else place):
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)

    def _gone(self, shown: Path) -> bool:
        """Whether nobody has touched `shown` for as long as `patience`, or it names a process that has ended."""
        try:
            changed = shown.stat().st_mtime_ns
        except OSError:
            return True
        now = time.monotonic()
        before, since, _ = self._seen.get(shown, (None, now, False))
        if before != changed:
            self._seen[shown] = changed, now, before is not None
        elif now - since > self._patience:
            return True
        return shown.name.startswith(_OWNER) and _has_ended(shown)


def holder(place: Path) -> dict[str, object]:
    """Who holds the claim in a folder: host, job, process; empty if nobody does, or it cannot be read.

    A process of this machine that has ended holds nothing; one of another machine may have ended.
    """
    work = work_in(place)
    return {} if work is None or _has_ended(_owner_of(work)) else read_object(_owner_of(work))


def work_in(place: Path) -> Path | None:
    """The folder of the files made so far in the folder of a claim, held or left; None if there is none."""
    return next((place / name for name in names_in(place) if name.startswith(_WORK)), None)


def _owner_of(work: Path) -> Path:
    return work.with_name(_OWNER + work.name.removeprefix(_WORK) + ".json")


def _is_empty(place: Path) -> bool:
    """Whether a folder holds nothing, but perhaps the owner of a claim that was killed when its work was done."""
    return place.is_dir() and all(name.startswith(_OWNER) for name in names_in(place))


def _made(place: Path, token: str) -> bool:
    """Makes a new claim at `place`, unless another process is first."""
    there = names_in(place)
    if any(name.startswith(_WORK) for name in there):
        return False
    for name in there:  # an owner without work was killed, or is about to leave, when its work was done
        if name.startswith(_OWNER):
            (place / name).unlink(missing_ok=True)
    new = place.with_name(_NEW + token)
    work = new / f"{_WORK}{token}"
    try:
        work.mkdir(parents=True)
        _owner_of(work).write_text(_this_process())
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        raise
    with contextlib.suppress(OSError):
        os.rename(new, place)
    # A network file system may answer a rename that it has made with an error.
    if (place / work.name).exists():
        return True
    shutil.rmtree(new, ignore_errors=True)
    return False


def _taken_over(place: Path, work: Path, token: str) -> bool:
    """Takes free work over, unless another process is first."""
    mine = place / f"{_WORK}{token}"
    owner = _owner_of(mine)
    try:
        owner.write_text(_this_process())
        os.rename(work, mine)
    except OSError as error:
        if error.errno in _UNWRITABLE:
            with contextlib.suppress(OSError):
                owner.unlink()
            raise
    if mine.exists():
        _owner_of(work).unlink(missing_ok=True)
        return True
    owner.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        place.rmdir()
    return False


def _this_process() -> str:
    job = next((os.environ[name] for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID") if name in os.environ), "")
    process = os.getpid()
    who = {"host": socket.gethostname(), "job": job, "process": process, "began": _began(process)}
    return json.dumps({**who, "machine": _machine()})


def _has_ended(owner: Path) -> bool:
    """Whether the file names a process of this machine that has ended."""
    who = read_object(owner)
    process = who.get("process")
    if not isinstance(process, int) or process < 1 or not _machine() or who.get("machine") != _machine():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # another user's
    return who.get("began") != _began(process)  # its number may have been given to another


@cache
def _machine() -> str:
    """What tells the numbers of processes here from those elsewhere, also in containers; empty where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _began(process: int) -> str:
    """When a process of this machine began, in the kernel's ticks; empty where unknown, or if it has ended.

    One that has ended stays listed until its parent asks for it, which the first process of a container may never do.
    """
    try:
        state, *others = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if state == "Z" else others[18]
    except (OSError, IndexError):
        return ""
