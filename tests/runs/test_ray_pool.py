"""Workers on the nodes of a Ray cluster: two nodes on this machine, each with its own processes."""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
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
from sparselt.stages.train import Train

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


PAUSE = 0.5  # seconds


@dataclass(frozen=True, kw_only=True, eq=False)
class SlowTrain(Train):
    """A training that writes down its steps, and makes a pause in each until `hurry` exists in the folder.

    400 steps take longer than all that a test waits for. So the training is there when the test stops it, however fast
    the machine is.
    """

    folder: str = not_in_key("")

    @classmethod
    def like(cls, stage, folder):
        return cls(**{f.name: getattr(stage, f.name) for f in fields(stage)}, folder=str(folder))

    @property
    def log(self):
        return Path(self.folder) / f"steps-{self.key[:20]}"

    def steps(self):
        """The steps that each process has begun, by its number, the first process first."""
        made = {}
        for line in self.log.read_text().splitlines() if self.log.exists() else ():
            process, step = map(int, line.split())
            made.setdefault(process, []).append(step)
        return made

    def run(self, task):
        def report(step):
            task.report(step)
            with self.log.open("a") as log:
                log.write(f"{os.getpid()} {step}\n")
            if not (Path(self.folder) / "hurry").exists():
                time.sleep(PAUSE)

        return super().run(replace(task, report=report))


@dataclass
class Beside:
    """Runs `act` in a thread during the block.

    Once it has ended, also by an error, the trainings hurry. The block raises that error.
    """

    act: Callable[[], None]
    folder: Path

    def __enter__(self):
        self._error = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        try:
            self.act()
        except BaseException as error:
            self._error = error
        finally:
            (self.folder / "hurry").touch()

    def __exit__(self, *_):
        self._thread.join()
        if self._error is not None:
            raise self._error


def ended(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def saved_steps(store, stage):
    """The steps of the saves of a training that has not ended."""
    return sorted(
        int(path.name.split("-")[1]) for path in store.root.glob(f"unfinished/train-{stage.key[:20]}/work-*/progress-*")
    )


def test_signals_make_trainings_save_and_a_pool_that_is_interrupted_leaves_their_progress(bench, workers, tmp_path):
    stage = SlowTrain.like(bench.lab(steps=400, milestones=()).dense(0).want("final.safetensors"), tmp_path)
    store = Store(tmp_path / "store")
    when_asked = []

    def interrupt():
        wait_for(stage.steps)
        pool.signal(signal.SIGUSR1)
        wait_for(lambda: saved_steps(store, stage))
        when_asked.extend(saved_steps(store, stage))
        os.kill(os.getpid(), signal.SIGINT)

    pool = workers(count=1)
    with pytest.raises(KeyboardInterrupt), Beside(interrupt, tmp_path), pool:
        execute(Plan([stage]), store, pool, Quiet())
    (asked,) = when_asked
    earlier, stopped = saved_steps(store, stage)
    assert earlier == asked < stopped, "one when asked to, one when stopped"
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
    plain = [lab.dense(replicate).want("final.safetensors") for replicate in range(2)]
    trainings = [SlowTrain.like(stage, tmp_path) for stage in plain]
    store, watcher = Store(tmp_path / "store"), Quiet()
    told, saved = set(), {}
    watcher.progressed = lambda stage, work: told.add(stage.key)

    def kill():
        wait_for(lambda: all(saved_steps(store, stage) for stage in trainings))
        wait_for(lambda: told >= {stage.key for stage in trainings})
        saved.update({stage.key: saved_steps(store, stage)[-1] for stage in trainings})
        cluster.remove_node(second, allow_graceful=False)
        processes = [process for stage in trainings for process in stage.steps()]
        wait_for(lambda: 1 <= sum(map(ended, processes)) == len(watcher.again))

    (second,) = cluster.worker_nodes
    with workers(count=2, save_seconds=2 * PAUSE) as pool:
        warm = [pool.submit(time.monotonic) for _ in range(2)]
        wait_for(lambda: all(f.done() for f in warm) and sum(bool(slot.node) for slot in pool._slots) == 2)
        with Beside(kill, tmp_path):
            entries = execute(Plan(trainings), store, pool, watcher)
    assert {entry.status for entry in entries} == {"ran"}
    lost = [stage for stage in trainings if len(stage.steps()) > 1]
    assert len(watcher.again) == len(lost) >= 1, "the other node has one core, so one training at least was lost"
    assert all("its node was lost" in error for error in watcher.again)
    for stage in lost:
        until_the_kill, after = stage.steps().values()
        assert 0 < saved[stage.key] <= after[0] <= until_the_kill[-1], "it went on from its last save"
        assert after == list(range(after[0], 401))
    for stage, same in zip(trainings, plain, strict=True):
        bench.run(same)
        ours, theirs = (bench.store.folder(same) / "final.safetensors", store.folder(stage) / "final.safetensors")
        assert ours.read_bytes() == theirs.read_bytes()
