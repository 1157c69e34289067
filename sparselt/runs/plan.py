"""A plan: the distinct stages that some measurements need, in an order in which they can run."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from sparselt.runs.store import Store
from sparselt.stages.stage import Stage
from sparselt.stages.train import Train


@dataclass(frozen=True)
class KindTotal:
    """The stages of one kind in a plan: how many, how many of them the store has, and the remaining work in units."""

    title: str
    unit: str
    stages: int
    found: int
    work: int


class Plan:
    """The wanted stages and all that they need, each once, with the union of its wanted outputs.

    Args:
        wanted: the stages whose results are measured. Equal ones count once.
    """

    def __init__(self, wanted: Iterable[Stage]):
        self._stages: dict[str, Stage] = {}
        for stage in wanted:
            self._add(stage)

    @cached_property
    def stages(self) -> list[Stage]:
        """All stages, each after those that it needs."""
        order: list[Stage] = []
        seen: set[str] = set()
        # An explicit stack, because a chain of levels is too deep for Python's recursion.
        stack = [(stage, False) for stage in reversed(self._stages.values())]
        while stack:
            stage, expanded = stack.pop()
            if stage.key in seen:
                continue
            if expanded:
                seen.add(stage.key)
                order.append(stage)
                continue
            stack.append((stage, True))
            stack.extend((self._stages[file.stage.key], False) for file in stage.inputs.values())
        return order

    def missing(self, store: Store) -> list[Stage]:
        """The stages that have to run, because the store lacks a wanted output or they are local."""
        return [stage for stage in self.stages if stage.runs_in_every_plan or not store.has(stage)]

    def totals(self, missing: Iterable[Stage]) -> list[KindTotal]:
        """One for each kind of stage, in the order in which the plan first runs them. missing: as `missing` found."""
        to_make = {stage.key for stage in missing}
        kinds: dict[type[Stage], list[Stage]] = {}
        for stage in self.stages:
            kinds.setdefault(type(stage), []).append(stage)
        rows = []
        for kind, stages in kinds.items():
            to_do = [stage for stage in stages if stage.key in to_make]
            work = sum(stage.work for stage in to_do)
            rows.append(KindTotal(kind.title, kind.unit, len(stages), len(stages) - len(to_do), work))
        return rows

    def trainings(self) -> list[Train]:
        return [stage for stage in self.stages if isinstance(stage, Train)]

    def width(self) -> int:
        """The most trainings that need equally many others before them, so they can be made together. At least 1."""
        depth: dict[str, int] = {}
        found: dict[int, int] = {}
        for stage in self.stages:
            before = max((depth[file.stage.key] for file in stage.inputs.values()), default=0)
            depth[stage.key] = before + isinstance(stage, Train)
            if isinstance(stage, Train):
                found[before] = found.get(before, 0) + 1
        return max(found.values(), default=1)

    def remaining_work(self) -> dict[str, float]:
        """By key, the work of the longest chain that begins with a stage. A run starts the longest chains first."""
        return self.longest_chains(lambda stage: max(1, stage.work))

    def longest_chains(self, cost: Callable[[Stage], float]) -> dict[str, float]:
        """By key, the cost of the longest chain of stages that begins with a stage."""
        longest: dict[str, float] = {}
        for stage in reversed(self.stages):
            longest[stage.key] = longest.get(stage.key, 0) + cost(stage)
            for file in stage.inputs.values():
                longest[file.stage.key] = max(longest.get(file.stage.key, 0), longest[stage.key])
        return longest

    def _add(self, stage: Stage) -> None:
        stack = [stage]
        while stack:
            stage = stack.pop()
            known = self._stages.get(stage.key)
            if known is not None and stage.outputs <= known.outputs:
                continue
            self._stages[stage.key] = stage if known is None else known.want(*stage.outputs)
            stack.extend(file.stage for file in stage.inputs.values())
