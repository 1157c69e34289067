"""Compares a call of ours with named competitors, in interleaved rounds, and with the time of moving its bytes.

A suite is a file `bench_<name>.py` beside this one; `sparselt bench <name>` runs it, each suite in its own process.
Every test of it takes the fixture `compare` (conftest.py), calls it once, and asserts nothing about speed::

    from sparselt.benchmarks.conditions import conditions
    from sparselt.benchmarks.harness import Case, Competitor

    HERE = conditions()     # HERE.device, HERE.quick, HERE.scaled(25.6e6), HERE.clocks(small=True)

    @pytest.mark.parametrize("size", [1_000, 1_000_000])
    def test_sum(size, compare):
        data = torch.empty(size, device=HERE.device)
        case = Case("sum", f"{size:,} numbers", size=size, sweep="size")
        ours = Competitor("sum", lambda: data.sum(), fresh=data.normal_)
        compare(case, ours, [Competitor("loop", lambda: sum(data), fresh=data.normal_)], moved=4 * size, probe="read")

Before each timed call, the competitor's `fresh` runs untimed. It gives new data, and leaves the caches alike for all.
In every round everybody makes one call, ours last. After the warm-up come as many rounds as fit `HERE.seconds`, at
least 5 (3 if a round takes seconds). Times are kept as medians with 20th and 80th percentiles. The bandwidth is
measured in the same rounds by the same clock; it includes launches if the clock does.

A suite can time competitors that cannot share a process or a round itself, and hand over the times, ours first:
`compare.times(case, {"ours": [seconds, …], "theirs": […]}, moved=…)`. A competitor that fails (no memory, not
capturable) is left out with a note; ours must not fail. `step=training_step(…)` of `networks.py` relates times to one
training step.

One record (a dict, JSON-able) a competitor and case, in seconds and bytes: kernel, case, device, dtype, size, density,
K, who, ours, median, p20, p80, ratio (its median over ours), floor (moved / bandwidth; None if `moved` was not given),
floor_fraction (floor / median), moved, bandwidth (bytes/s of the probe, in the same rounds), probe, step (seconds of a
training step), step_share (median / step), step_of (which network, batch and precision), clock, rounds, sweep, unit,
note.
"""

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sparselt.benchmarks.clocks import captured, seconds_of
from sparselt.benchmarks.conditions import Conditions
from sparselt.benchmarks.networks import StepTime

PROBES = ("copy", "rewrite", "read", "write")
"""How bandwidth is measured: by copying, rewriting in place, summing, or zeroing memory of about `moved` bytes.

On a CPU a copy moves half as much again, because overwritten memory is loaded first. Rewriting does not.
"""

FIELDS = (
    *("kernel", "case", "device", "dtype", "size", "density", "K", "who", "ours", "median", "p20", "p80", "ratio"),
    *("floor", "floor_fraction", "moved", "bandwidth", "probe", "step", "step_share", "step_of", "clock", "rounds"),
    *("sweep", "unit", "note"),
)

_LARGEST_PROBE = 256 * 2**20  # bytes: larger probes have the same bandwidth


@dataclass(frozen=True)
class Case:
    """What is measured.

    kernel: the operation. case: the network or data, in words, unique among the cases of this kernel and sweep.
    size: how many `unit` one call handles. density: share of live weights. K: networks, points or workers in one call.
    sweep: None, or which of "density", "size" and "K" varies among the cases of this name, which become one plot.
    title: of that plot; default: `case`.
    """

    kernel: str
    case: str
    size: int
    density: float = 1.0
    K: int = 1
    dtype: str = "float32"
    unit: str = "weights"
    sweep: str | None = None
    title: str = ""


@dataclass(frozen=True)
class Competitor:
    """One way to do the work. `call` is timed; `fresh` runs before each call, untimed."""

    name: str
    call: Callable[[], object]
    fresh: Callable[[], object] | None = None


class Rotation:
    """Several sets of random data. `now` is the one in use; `turn` goes on to the next."""

    def __init__(self, *sets):
        self.sets, self._place = sets, 0

    @property
    def now(self):
        return self.sets[self._place]

    def turn(self) -> None:
        self._place = (self._place + 1) % len(self.sets)


class Compare:
    """The fixture `compare`. benchmark: pytest-benchmark's fixture; its extra_info["records"] gets the records."""

    def __init__(self, benchmark, here: Conditions):
        self._benchmark, self._here = benchmark, here

    def __call__(
        self,
        case: Case,
        ours: Competitor,
        others: Sequence[Competitor],
        *,
        moved: float | None = None,
        probe: str | None = None,
        step: StepTime | None = None,
        clock: str = "host",
    ) -> list[dict]:
        """Measures, and returns the records.

        moved: bytes that one call must move. probe: one of `PROBES`; default: rewrite on a CPU, copy on a GPU.
        clock: see `clocks.seconds_of`; on a CPU always the host's.
        """
        here = self._here
        clock = clock if here.on_gpu else "host"
        probe = probe or ("copy" if here.on_gpu else "rewrite")
        rivals = list(others)
        if moved:
            rivals.append(_probe(probe, moved, here.device))
        notes: dict[str, str] = {}
        calls = {ours.name: _ready(ours, clock)}
        for rival in rivals:
            try:
                calls[rival.name] = _ready(rival, clock)
            except (RuntimeError, MemoryError) as error:
                notes[rival.name] = (str(error).splitlines() or [type(error).__name__])[0][:200]
        rivals = [rival for rival in rivals if rival.name in calls]
        seconds: dict[str, list[float]] = {name: [] for name in calls}

        def run(competitor: Competitor) -> None:
            if competitor.fresh is not None:
                competitor.fresh()
            seconds[competitor.name].append(seconds_of(calls[competitor.name], clock, here.device))

        def everyone_else() -> None:
            for rival in rivals:
                run(rival)
            if ours.fresh is not None:
                ours.fresh()

        def we() -> None:
            seconds[ours.name].append(seconds_of(calls[ours.name], clock, here.device))

        rounds = self._warm_up([*rivals, ours], run, seconds)
        for times in seconds.values():
            times.clear()
        gc.collect()
        gc.disable()
        try:
            self._benchmark.pedantic(we, setup=everyone_else, rounds=rounds)
        finally:
            gc.enable()
        return self._keep(case, seconds, moved, probe, step, clock, notes)

    def times(
        self,
        case: Case,
        seconds: Mapping[str, Sequence[float]],
        *,
        moved: float | None = None,
        step: StepTime | None = None,
        probe: str | None = None,
        clock: str = "host",
        notes: Mapping[str, str] | None = None,
    ) -> list[dict]:
        """Takes times that the suite measured (seconds a call, by name, ours first), and returns the records.

        With `moved`, bandwidth is measured now, in ten rounds. notes: remarks by name, shown under the table.
        """
        here = self._here
        probe = probe or ("copy" if here.on_gpu else "rewrite")
        seconds = {name: list(times) for name, times in seconds.items()}
        if moved:
            bandwidth = _probe(probe, moved, here.device)
            seconds[bandwidth.name] = [seconds_of(bandwidth.call, clock, here.device) for _ in range(12)][2:]
        self._benchmark.pedantic(lambda: None)  # pytest-benchmark's JSON holds only benchmarks that ran
        return self._keep(case, seconds, moved, probe, step, clock, dict(notes or {}))

    def _warm_up(self, everyone: Sequence[Competitor], run, seconds: dict[str, list[float]]) -> int:
        """Makes everybody's first calls, which compile and fill caches. Returns how many rounds fit the time."""
        for competitor in everyone:
            run(competitor)
            while len(seconds[competitor.name]) < 3 and seconds[competitor.name][-1] < 0.3:
                run(competitor)
        round_takes = 1.5 * sum(times[-1] for times in seconds.values())
        least = 3 if self._here.quick or round_takes > 1 else 5
        return int(min(300, max(least, self._here.seconds / max(round_takes, 1e-6))))

    def _keep(self, case, seconds, moved, probe, step, clock, notes) -> list[dict]:
        records = summarize(
            case, seconds, device=self._here.device, moved=moved, probe=probe, step=step, clock=clock, notes=notes
        )
        self._benchmark.extra_info["records"] = records
        print(_line(records), file=sys.stderr, flush=True)
        return records


def percentiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """20th percentile, median and 80th, linear between neighbours."""
    low, middle, high = np.percentile(np.asarray(seconds, dtype=np.float64), [20, 50, 80])
    return float(low), float(middle), float(high)


def summarize(
    case: Case,
    seconds: Mapping[str, Sequence[float]],
    *,
    device: str,
    moved: float | None = None,
    probe: str = "rewrite",
    step: StepTime | None = None,
    clock: str = "host",
    notes: Mapping[str, str] | None = None,
) -> list[dict]:
    """The records of one case. seconds: times a call by name, ours first, and "bandwidth" for the probe."""
    seconds, notes = dict(seconds), dict(notes or {})
    probed = seconds.pop("bandwidth", None)
    bandwidth = _probed_bytes(probe, moved) / percentiles(probed)[1] if moved and probed else None
    floor = moved / bandwidth if moved and bandwidth else None
    ours = next(iter(seconds))
    base = percentiles(seconds[ours])[1]
    records = []
    for who, times in seconds.items():
        low, median, high = percentiles(times)
        values = {
            **{name: getattr(case, name) for name in ("kernel", "case", "dtype", "size", "density", "K")},
            **{"device": device, "who": who, "ours": who == ours, "clock": clock, "rounds": len(times)},
            **{"median": median, "p20": low, "p80": high, "ratio": median / base},
            **{"floor": floor, "floor_fraction": floor / median if floor else None},
            **{"moved": moved, "bandwidth": bandwidth, "probe": probe if bandwidth else None},
            **{"step": step and step.seconds, "step_share": step and median / step.seconds},
            **{"step_of": step and step.of, "sweep": case.sweep, "unit": case.unit, "note": notes.pop(who, "")},
        }
        records.append({name: values[name] for name in FIELDS})
    if notes:  # competitors that were left out, and why
        left_out = "; ".join(f"{who} left out: {why}" for who, why in notes.items())
        records[0]["note"] = "; ".join(filter(None, [records[0]["note"], left_out]))
    return records


def _ready(competitor: Competitor, clock: str) -> Callable[[], object]:
    if competitor.fresh is not None:
        competitor.fresh()
    if clock == "graph":
        return captured(competitor.call)
    competitor.call()
    return competitor.call


def _probed_bytes(probe: str, moved: float) -> int:
    """Bytes that one call of the probe moves: about `moved`, up to a limit, in whole numbers."""
    numbers = int(min(max(moved, 64), _LARGEST_PROBE)) // (8 if probe in ("copy", "rewrite") else 4)
    return numbers * (8 if probe in ("copy", "rewrite") else 4)


def _probe(probe: str, moved: float, device: str) -> Competitor:
    if probe not in PROBES:
        raise ValueError(f"probe is {probe!r}: expected one of {', '.join(PROBES)}")
    size = _probed_bytes(probe, moved) // (8 if probe in ("copy", "rewrite") else 4)
    data = torch.ones(size, device=device)
    other = torch.empty_like(data) if probe == "copy" else data
    calls: dict[str, Callable[[], object]] = {
        "copy": lambda: other.copy_(data),
        "rewrite": lambda: data.mul_(1.0),
        "read": data.sum,
        "write": data.zero_,
    }
    return Competitor("bandwidth", calls[probe])


def _line(records: Sequence[Mapping]) -> str:
    ours, others = records[0], records[1:]
    ratios = ", ".join(f"{r['ratio']:.2f} × {r['who']}" for r in others)
    which = f"{ours['case']}, density {ours['density']:g}, K {ours['K']}"
    return f"  {ours['kernel']}: {which}: {1e3 * ours['median']:.4g} ms" + (f"; {ratios}" if ratios else "")
