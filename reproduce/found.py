"""What drivers ask of finished stages, and which of it nobody will ever answer."""

from collections.abc import Collection
from typing import Any

from sparselt.errors import SettingError
from sparselt.runs.plan import Plan
from sparselt.runs.stage import Stage
from sparselt.runs.store import Store


class Finder:
    """`lab.found` of a run: answers from the store, and remembers what was asked since `forget`."""

    def __init__(self, store: Store):
        self._store = store
        self._asked: dict[tuple[str, str], tuple[Stage, bool]] = {}

    def __call__(self, stage: Stage, file: str) -> dict[str, Any] | None:
        """The JSON output `file` of `stage`; None where it has not run yet."""
        answered = self._store.has(stage.want(file))
        self._asked[stage.key, file] = stage, answered
        return self._store.read(stage, file) if answered else None

    def forget(self) -> None:
        """Before the drivers are asked again."""
        self._asked.clear()

    def check(self, plan: Plan, lost: Collection[str]) -> None:
        """Once the rounds have ended: whether what was asked for is what the drivers yield, or one of the `lost` keys.

        Raises:
            SettingError: a stage that no measurement needs, whose answer would depend on what else is in the store; or
                a file that its stage did not make.
        """
        planned = {stage.key for stage in plan.stages}
        for (key, file), (stage, answered) in self._asked.items():
            if key in lost or (key in planned and answered):
                continue
            what = f"an experiment asks lab.found for {file} of '{stage.label or stage.kind}'"
            if key in planned:
                raise SettingError(f"{what}, which does not make it; a training makes measurements.json")
            raise SettingError(
                f"{what}, but yields no measurement that needs this stage, so that it never runs; yield a Measurement "
                "of it before asking"
            )
