"""The fixture of all suites."""

import gc

import pytest

from sparselt.benchmarks.conditions import conditions
from sparselt.benchmarks.harness import Compare


@pytest.fixture
def compare(benchmark) -> Compare:
    """Measures ours against named competitors; see `sparselt.benchmarks.harness`."""
    return Compare(benchmark, conditions())


def pytest_collection_finish():
    # Imported objects stay, so they are frozen: a collection before every case would take 0.2 s.
    gc.collect()
    gc.freeze()


def pytest_benchmark_update_machine_info(config, machine_info):
    from sparselt.benchmarks.machine import machine

    machine_info["sparselt"] = machine(conditions().device)
