import os
import time

from sparselt.runs.devices import like_the_first
from sparselt.runs.workers import Workers


def seen(seconds: float) -> tuple[int, str | None]:
    time.sleep(seconds)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


def devices_of(workers: Workers) -> list[str | None]:
    """What each process of the pool sees, its processes started by tasks that overlap."""
    with workers:
        futures = [workers.submit(seen, 0.5) for _ in range(3 * workers.count)]
        by_process = dict(future.result() for future in futures)
    assert len(by_process) == workers.count
    return list(by_process.values())


def test_each_worker_sees_one_of_the_devices_alone_in_turn():
    assert sorted(devices_of(Workers(3, devices=("5", "GPU-abc")))) == ["5", "5", "GPU-abc"]


def test_without_devices_workers_see_what_this_process_sees(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert devices_of(Workers(2)) == ["7", "7"]


def test_devices_of_another_model_than_the_first_are_left_idle():
    names = ["H200", "A100", "H200"]
    assert like_the_first(names) == ["0", "2"]
    assert like_the_first(names, "4, GPU-1,MIG-2") == ["4", "MIG-2"]
    assert like_the_first(names[:2], "3,6,-1,9") == ["3"]
    assert like_the_first([]) == []
