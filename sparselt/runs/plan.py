"""A plan: the distinct stages that some measurements need, in an order in which they can run."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from sparselt.runs.kinds import KINDS
from sparselt.runs.stage import Stage
from sparselt.runs.store import Store


@dataclass(frozen=True)
class KindTotal:
    """How much of one kind a plan holds: stages, how many are in the store already, units still to do."""

    kind: str
    title: str
    counts: str
    stages: int
    found: int
    units: int


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
            stack.extend((self._stages[need.stage.key], False) for need in stage.needs.values())
        return order

    def missing(self, store: Store) -> list[Stage]:
        """The stages that have to run: wanted outputs that are not in the store, and what they in turn need."""
        return [stage for stage in self.stages if stage.local or not store.has(stage)]

    def totals(self, store: Store) -> list[KindTotal]:
        """Per kind, in the order of `KINDS`: stages, how many are done, units to do."""
        missing = {stage.key for stage in self.missing(store)}
        rows = []
        for name, kind in KINDS.items():
            stages = [stage for stage in self.stages if stage.kind == name]
            if stages:
                to_do = [stage for stage in stages if stage.key in missing]
                rows.append(
                    KindTotal(
                        name,
                        kind.title,
                        kind.counts,
                        len(stages),
                        len(stages) - len(to_do),
                        sum(s.steps for s in to_do),
                    )
                )
        return rows

    def trainings(self) -> list[Stage]:
        """The training stages."""
        return [stage for stage in self.stages if stage.kind == "train"]

    def remaining_work(self) -> dict[str, int]:
        """For each key the units of the longest chain that begins with it: what to start first to end early."""
        longest: dict[str, int] = {}
        for stage in reversed(self.stages):
            own = longest.get(stage.key, 0) + max(1, stage.steps)
            longest[stage.key] = own
            for need in stage.needs.values():
                longest[need.stage.key] = max(longest.get(need.stage.key, 0), own)
        return longest

    def _add(self, stage: Stage) -> None:
        stack = [stage]
        while stack:
            stage = stack.pop()
            known = self._stages.get(stage.key)
            if known is not None and stage.outputs <= known.outputs:
                continue
            self._stages[stage.key] = stage if known is None else known.want(*stage.outputs)
            stack.extend(need.stage for need in stage.needs.values())
