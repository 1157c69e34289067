"""The nodes of a Ray cluster: how a run reaches them, and whether it can use them."""

import logging
import os
import re
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sparselt.errors import SettingError
from sparselt.runs.versions import versions
from sparselt.stages.resources import Resources
from sparselt.stopping import holding_back

_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0: Ray listens on 127.0.0.1 only, which is its default on a Mac
_ANSWER_SECONDS = 5.0
_SETTINGS = b"\x04"  # the type of the frame with which HTTP/2, and so gRPC, begins
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + _SETTINGS + b"\0\0\0\0\0"
_CHECK_SECONDS = 120.0  # a node starts a Python for it, from a slow file system perhaps
_NOTICE_SECONDS = 20.0  # Ray's own time until it calls a silent node dead, and some more
_OBJECTS = 80 << 20  # bytes of shared memory, about the least that Ray takes; nothing large goes through it


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, as Ray sees it. name: for a person."""

    id: str
    name: str
    cores: float
    gpus: float


def check_installed() -> None:
    """Raises a SettingError if Ray is not installed."""
    if find_spec("ray") is None:
        raise SettingError("--executor ray: Ray is not installed here; pip install 'sparselt[ray]'")


def connect(address: str | None, cores: int) -> None:
    """Connects this process to a cluster; without an address to one of its own on this machine, on loopback only.

    Args:
        address: `host:port`, or `auto` for the cluster that runs on this machine.
        cores: of a cluster of its own.

    Raises:
        SettingError: Ray is not installed, the address does not answer, or Ray refuses.
    """
    check_installed()
    if address is None:  # read when Ray is imported, and when it starts a process
        os.environ.setdefault(_LOOPBACK, "0")
        os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    quiet: dict = {"logging_level": logging.ERROR, "log_to_driver": False}
    main = threading.current_thread() is threading.main_thread()
    on_stop = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            ray.init(
                address="local",
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=_OBJECTS,
                **quiet,
            )
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        what = "a Ray of its own" if address is None else f"--ray-address {address}"
        raise SettingError(f"{what}: Ray says: {' '.join(str(error).split())}") from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, on_stop)  # which Ray has replaced
    listens = ray.nodes()[0]["NodeManagerAddress"]
    if address is None and os.environ[_LOOPBACK] == "0" and listens != "127.0.0.1":
        ray.shutdown()
        raise SettingError(
            f"Ray was imported before sparselt could keep it to loopback, and listens on {listens}; set {_LOOPBACK}=0 "
            "in the environment, or =1 if that is meant"
        )


def disconnect(actors: Iterable[Any]) -> None:
    """Kills actors, and ends the connection, or the cluster of this process's own.

    Signals to end wait meanwhile: a Ray that is left half shut down ends this process with an exit code of its own. Ray
    sets SIGTERM to the system's default as it shuts down. A SIGTERM in that second still ends the process at once.
    """
    import ray

    with holding_back():
        for actor in actors:
            ray.kill(actor)
        ray.shutdown()


def check_answers(address: str) -> None:
    """Checks that a gRPC server, such as Ray, answers at an address. Ray itself would try for minutes and then end the
    process.

    Raises:
        SettingError: it is not an address, Ray is not installed, or the address does not answer.
    """
    if address == "auto":
        return
    found = re.fullmatch(r"\[?([^/\s\]]+)\]?:(\d{1,5})", address)
    if not found:
        proxy = "; ray:// goes through a proxy: give the address of the cluster itself" if "://" in address else ""
        raise SettingError(f"--ray-address is {address!r}; expected HOST:PORT, or auto{proxy}")
    check_installed()
    try:
        with socket.create_connection((found[1], int(found[2])), timeout=_ANSWER_SECONDS) as connection:
            if not os.environ.get("RAY_USE_TLS"):
                connection.settimeout(_ANSWER_SECONDS)
                connection.sendall(_GREETING)
                if connection.recv(4)[3:] != _SETTINGS:
                    raise OSError("something else than Ray is there")
    except (OSError, OverflowError) as error:
        raise SettingError(
            f"--ray-address {address} does not answer ({error}); start Ray there (ray start --head), or leave the "
            "address out for a Ray on this machine"
        ) from error


def alive() -> list[Node]:
    """The nodes that are there now; first that of this process."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            own, host, ip = node["NodeName"], node["NodeManagerHostname"], node["NodeManagerAddress"]
            has = node["Resources"]
            name = own if own != ip else f"{host} ({ip})"
            found.append(Node(node["NodeID"], name, has.get("CPU", 0.0), has.get("GPU", 0.0)))
    return sorted(found, key=lambda node: node.id != here)


class Nodes:
    """The nodes that a run uses: those that have passed the check, now or when they joined.

    good, refused: their ids. room: for how many trainings those that are there have room. since: when there began to be
    room, or none.

    Args:
        root: see `Check`.
        each: what a training takes.
        met: called, in another thread, when nodes that joined have been checked.
    """

    def __init__(self, root: Path | None, each: Resources, met: Callable[[], None]):
        self._check, self._each, self._met = Check(root), each, met
        self._asked: set[str] = set()
        self.good: set[str] = set()
        self.refused: set[str] = set()
        self.room, self.since = 0, time.monotonic()

    def admit(self) -> None:
        """Checks all nodes that are there, and raises what `Check` raises."""
        nodes = alive()
        for warning in self._check(nodes):
            print(warning, file=sys.stderr)
        self.good = {node.id for node in nodes}
        self._asked = set(self.good)
        self.look()

    def look(self) -> list[Node]:
        """The nodes that are there. Counts their room, and has new ones checked."""
        nodes = alive()
        if new := [node for node in nodes if node.id not in self._asked]:
            self._asked |= {node.id for node in new}
            threading.Thread(target=self._meet, args=(new,), daemon=True).start()
        room = sum(self._each.fits(node.cores, node.gpus) for node in nodes if node.id in self.good)
        if (room > 0) != (self.room > 0):
            self.since = time.monotonic()
        self.room = room
        return nodes

    def _meet(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            try:
                for warning in self._check([node]):
                    print(warning, file=sys.stderr)
                self.good.add(node.id)
            except SettingError as error:
                print(f"not used: {error}", file=sys.stderr)
                self.refused.add(node.id)
        self._met()


def _has_left(node: Node) -> bool:
    """Whether the node is dead. A cluster notices that only after a while, so this waits for it."""
    until = time.monotonic() + _NOTICE_SECONDS
    while any(other.id == node.id for other in alive()):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


class Check:
    """Whether nodes have the versions of this process, and share its store.

    Args:
        root: the store; None: nothing will be stored.
    """

    def __init__(self, root: Path | None):
        self._root = root
        self._here = versions(), os.getcwd(), cpu_model()

    def __call__(self, nodes: Iterable[Node]) -> list[str]:
        """Asks each node. Returns warnings.

        Raises:
            SettingError: a node has other versions, does not see the store or the folder of the command, or does not
                answer.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here, token = alive()[0], f".ray-{uuid.uuid4().hex[:16]}"
        root = None if self._root is None else str(self._root)
        mark = None if self._root is None else self._root / token
        asked = []
        try:
            if mark is not None:
                mark.write_text(token)
            for node in nodes:
                there = NodeAffinitySchedulingStrategy(node.id, soft=False)
                look = ray.remote(seen_from).options(num_cpus=0, scheduling_strategy=there, max_retries=0)
                asked.append((node, look.remote(root, token, self._here[1], node.id)))
            warnings: list[str] = []
            for node, answer in asked:
                try:
                    seen = ray.get(answer, timeout=_CHECK_SECONDS)
                except Exception as error:  # whatever keeps it from answering
                    lost = isinstance(error, RayError) and not isinstance(error, RayTaskError)
                    if lost and _has_left(node):
                        warnings.append(f"node {node.name} has left the cluster, and is not used")
                        continue
                    raise SettingError(f"node {node.name} cannot run sparselt: {last_line(error)}") from error
                if mark is not None and not (seen["read"] == token and _answer(mark, node).exists()):
                    raise SettingError(
                        f"node {node.name} does not share {root} with {here.name}: it does not read what the other "
                        f"writes there ({seen['error'] or 'another file is there'}); give --out a folder that all "
                        "nodes share"
                    )
                warnings += self._compared(node, seen, here)
            return warnings
        finally:
            if mark is not None:
                for path in (mark, *(_answer(mark, node) for node, _ in asked)):
                    path.unlink(missing_ok=True)

    def _compared(self, node: Node, seen: Mapping, here: Node) -> list[str]:
        own, folder, cpu = self._here
        for package in sorted(own.keys() | seen["versions"].keys()):
            ours, theirs = (found.get(package, "missing") for found in (own, seen["versions"]))
            if ours != theirs:
                raise SettingError(
                    f"nodes of different versions: {package} is {theirs} on {node.name} and {ours} on {here.name}, "
                    "where this command runs; install the same on both"
                )
        if not seen["folder"]:
            raise SettingError(
                f"node {node.name} has no folder {folder}, from where this command was started; start it from a folder "
                "that all nodes share"
            )
        if seen["cpu"] != cpu:
            return [
                f"node {node.name} has another CPU ({seen['cpu']}) than {here.name} ({cpu}): the last bits of what it "
                "makes may differ"
            ]
        return []


def _answer(mark: Path, node: Node) -> Path:
    return mark.with_name(f"{mark.name}-{node.id}")


def seen_from(root: str | None, token: str, folder: str, node: str) -> dict:
    """Runs on a node: what it has, and what it reads in `root` from another node. Writes a file of its own there."""
    read, error = "", ""
    if root is not None:
        try:
            mark = Path(root) / token
            read = mark.read_text()
            mark.with_name(f"{token}-{node}").touch()
        except OSError as failed:
            error = str(failed)
    own = {"versions": versions(), "cpu": cpu_model(), "folder": os.path.isdir(folder)}
    return {**own, "read": read, "error": error}


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The name of this machine's CPU; empty where unknown."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def last_line(error: BaseException) -> str:
    """The last line of an error's text, which says what happened where Ray adds a traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
