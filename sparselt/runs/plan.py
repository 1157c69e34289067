"""A plan: the distinct stages that some measurements need, in an order in which they can run."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from sparselt.runs.store import Store
from sparselt.stages.stage import Stage
from sparselt.stages.train import Train


@dataclass(frozen=True)
class KindTotal:
    """How much of one kind a plan holds: stages, how many are in the store already, units of work still to do."""

    title: str
    unit: str
    stages: int
    found: int
    work: int


class Plan:
    """Every stage that the wanted ones need, each once, with the union of the outputs asked of it.

    Args:
        wanted: the stages whose results are measured. Two equal ones are one.
    """

    def __init__(self, wanted: Iterable[Stage]):
        self._stages: dict[str, Stage] = {}
        for stage in wanted:
            self._add(stage)

    @cached_property
    def stages(self) -> list[Stage]:
        """All stages, every one after those it needs."""
        order: list[Stage] = []
        seen: set[str] = set()
        # An explicit stack: a chain of levels is deeper than Python likes to recurse.
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
            stack.extend((self._stages[file.stage.key], False) for file in stage.needs.values())
        return order

    def missing(self, store: Store) -> list[Stage]:
        """The stages that have to run: wanted outputs that are not in the store, and what they in turn need."""
        return [stage for stage in self.stages if stage.local or not store.has(stage)]

    def totals(self, store: Store) -> list[KindTotal]:
        """One for each kind of stage, in the order in which the plan first runs them."""
        missing = {stage.key for stage in self.missing(store)}
        kinds: dict[type[Stage], list[Stage]] = {}
        for stage in self.stages:
            kinds.setdefault(type(stage), []).append(stage)
        rows = []
        for kind, stages in kinds.items():
            to_do = [stage for stage in stages if stage.key in missing]
            work = sum(stage.work for stage in to_do)
            rows.append(KindTotal(kind.title, kind.unit, len(stages), len(stages) - len(to_do), work))
        return rows

    def trainings(self) -> list[Train]:
        """The training stages."""
        return [stage for stage in self.stages if isinstance(stage, Train)]

    def remaining_work(self) -> dict[str, int]:
        """For each key the work of the longest chain that begins with it: what to start first to end early."""
        longest: dict[str, int] = {}
        for stage in reversed(self.stages):
            own = longest.get(stage.key, 0) + max(1, stage.work)
            longest[stage.key] = own
            for file in stage.needs.values():
                longest[file.stage.key] = max(longest.get(file.stage.key, 0), own)
        return longest

    def _add(self, stage: Stage) -> None:
        stack = [stage]
        while stack:
            stage = stack.pop()
            known = self._stages.get(stage.key)
            if known is not None and stage.outputs <= known.outputs:
                continue
            self._stages[stage.key] = stage if known is None else known.want(*stage.outputs)
            stack.extend(file.stage for file in stage.needs.values())
