"""Workers on the nodes of a Ray cluster: two nodes on this machine, each with its own processes."""

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

# Read when Ray is imported: nodes listen on loopback only, and take no rest from each other.
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"}
pytest.importorskip("ray", reason="Ray is an extra")

from ray.cluster_utils import Cluster
from test_executor import Passing, Quiet

from sparselt.errors import SettingError
from sparselt.runs.executor import execute
from sparselt.runs.plan import Plan
from sparselt.runs.ray_pool import RayWorkers
from sparselt.runs.store import Store
from sparselt.stages import Stage, Value
from sparselt.stages.identity import not_in_key
from sparselt.stages.resources import Resources

pytestmark = pytest.mark.slow

SOON = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


@pytest.fixture(scope="module")
def cluster():
    made = Cluster()
    made.add_node(num_cpus=1, node_name="first", include_dashboard=False, _system_config=SOON)
    made.add_node(num_cpus=2, node_name="second")
    yield made
    made.shutdown()


@pytest.fixture
def workers(cluster, tmp_path):
    """A pool of workers; each: the cores of a training."""

    def connected(each=1, **options):
        (tmp_path / "store").mkdir(exist_ok=True)
        return RayWorkers(Resources(each), tmp_path / "store", cluster.address, **options)

    return connected


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass(frozen=True, kw_only=True, eq=False)
class Place(Stage):
    """Says where it runs, and kills what holds its process, the first time, if it is to."""

    kind, title, unit = "place", "say where", "points"

    number: int
    threads: int = 1
    kills_holder: bool = False
    folder: str = not_in_key("")

    def run(self, task):
        import torch

        mark = Path(self.folder) / f"{self.number}"
        if self.kills_holder and not mark.exists():
            mark.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        time.sleep(0.3)
        tiny = torch.full((9,), 1e-38) * 1e-3
        values = {"process": os.getpid(), "holder": os.getppid(), "denormal": float(tiny.sum())}
        task.write_values([Value(name, value) for name, value in values.items()])
        return 1


def test_stages_take_the_cores_they_declare_and_flush_denormals_wherever_they_run(workers, tmp_path):
    store = Store(tmp_path / "store")
    stages = [Place(number=number, threads=1 + (number < 2)).want("values.json") for number in range(6)]
    with workers(each=1) as pool:
        assert pool.count == 3, "one node has one core, the other two"
        entries = execute(Plan(stages), store, pool, Quiet())
    assert {entry.status for entry in entries} == {"ran"}
    values = [{value.metric: value.value for value in store.read(stage.measured)} for stage in stages]
    assert len({found["process"] for found in values[:2]}) == 1, "only one node has two cores"
    assert all(found["denormal"] == 0 for found in values)


def test_a_killed_worker_takes_only_its_own_stage_which_is_tried_again(workers, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    killed = Passing(how="killed", fails=1, folder=str(marks))
    others = [Place(number=number, kills_holder=number == 0, folder=str(tmp_path)) for number in range(4)]
    watcher = Quiet()
    plan = Plan(stage.want(stage.measured) for stage in (killed, *others))
    with workers(count=2) as pool:
        assert {entry.status for entry in execute(plan, Store(tmp_path / "store"), pool, watcher)} == {"ran"}
    assert len(watcher.again) == 2 and all("a worker process was killed" in error for error in watcher.again)


def test_signals_make_trainings_save_and_a_pool_that_is_interrupted_leaves_their_progress(bench, workers, tmp_path):
    stage = bench.lab(steps=3000, milestones=()).dense(0).want("final.safetensors")
    store = Store(tmp_path / "store")
    found = (tmp_path / "store" / "unfinished").glob

    def interrupt():
        def saved():
            pool.signal(signal.SIGUSR1)
            time.sleep(0.2)
            return list(found("train-*/work-*/progress-*"))

        wait_for(lambda: list(found("train-*")))
        wait_for(saved)
        os.kill(os.getpid(), signal.SIGINT)

    pool = workers(count=1)
    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt), pool:
        thread.start()
        execute(Plan([stage]), store, pool, Quiet())
    thread.join()
    assert len(list(found("train-*/work-*/progress-*"))) == 2, "one when asked to, one when stopped"
    wait_for(lambda: not store.taken(stage))
    assert store.started(stage)


def test_nodes_of_different_versions_are_refused_with_both_named(cluster, workers, tmp_path):
    other = tmp_path / "packages" / "numpy-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.1\n")
    old = cluster.add_node(num_cpus=1, node_name="old", env_vars={"PYTHONPATH": str(other.parent)})
    with pytest.raises(SettingError, match=r"numpy is 0\.0\.1 on old and [\d.]+ on first"), workers():
        pass
    cluster.remove_node(old, allow_graceful=False)
    with workers() as pool:  # the cluster has not noticed yet that the node is dead
        assert pool.count >= 1


def test_a_store_that_the_nodes_do_not_share_is_refused(cluster, tmp_path, monkeypatch):
    # The same name is another folder in each process: here it is this test's, on the nodes that of the whole session.
    store = Path("/proc/self/cwd/store-of-a-test")
    monkeypatch.chdir(tmp_path)
    store.mkdir()
    pool = RayWorkers(Resources(), store, cluster.address)
    with pytest.raises(SettingError, match=r"does not share /proc/self/cwd/store-of-a-test with first.*--out"), pool:
        pass
    assert list(store.iterdir()) == []


def test_a_node_that_joins_is_checked_and_used(cluster, workers, tmp_path):
    with workers(each=2) as pool:
        before = pool.count
        assert before == 1, "only one node has two cores"
        node = cluster.add_node(num_cpus=2, node_name="late")
        wait_for(lambda: pool.count == before + 1)
        cluster.remove_node(node, allow_graceful=False)
        wait_for(lambda: pool.count == before)


def test_a_cluster_without_room_for_a_training_is_refused(workers):
    with pytest.raises(SettingError, match="no node of the Ray cluster has 64 cores"), workers(each=64):
        pass


def test_a_killed_node_loses_at_most_an_interval_and_the_bytes_are_those_of_this_process(
    bench, cluster, workers, tmp_path
):
    lab = bench.lab(steps=400, milestones=())
    trainings = [lab.dense(replicate).want("final.safetensors") for replicate in range(2)]
    store, watcher = Store(tmp_path / "store"), Quiet()
    told: dict[str, list[int]] = {}
    watcher.progressed = lambda stage, work: told.setdefault(f"{stage.key} {len(watcher.again)}", []).append(work)

    def saved():
        """The last saved step of each training that has two saves, by the beginning of its key."""
        files = (tmp_path / "store").glob("unfinished/train-*/work-*/progress-*")
        steps = [(file.parts[-3].removeprefix("train-"), int(file.name.split("-")[1])) for file in files]
        return {key: max(step for other, step in steps if other == key) for key, _ in steps}

    def kill():
        wait_for(lambda: len(saved()) == 2)
        cluster.remove_node(second, allow_graceful=False)
        at_the_kill.update(saved())

    at_the_kill: dict[str, int] = {}
    (second,) = cluster.worker_nodes
    thread = threading.Thread(target=kill)
    with workers(count=2, save_seconds=0.5) as pool:
        warm = [pool.submit(time.monotonic) for _ in range(2)]
        wait_for(lambda: all(f.done() for f in warm) and sum(bool(slot.node) for slot in pool._slots) == 2)
        thread.start()
        entries = execute(Plan(trainings), store, pool, watcher)
        thread.join()
    assert {entry.status for entry in entries} == {"ran"}
    assert watcher.again and all("its node was lost" in error for error in watcher.again)
    for stage in trainings:
        if any(stage.name in error for error in watcher.again):
            after = told[f"{stage.key} {len(watcher.again)}"]
            assert min(after) >= at_the_kill[stage.key[:20]] > 0, "it went on from its last save"
    for stage in trainings:
        bench.run(stage)
        ours, theirs = (s.folder(stage) / "final.safetensors" for s in (bench.store, store))
        assert ours.read_bytes() == theirs.read_bytes()
