"""The values that one experiment varies: a frozen dataclass, part of a setting."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from sparselt.experiments.values import rules

if TYPE_CHECKING:
    from sparselt.experiments.setting import Setting


@dataclass(frozen=True, kw_only=True)
class Options:
    """The values that an experiment varies. Each field has a rule, see `sparselt.experiments.values`.

    The names are set like the setting's own, so no two experiments share one.
    """

    def check(self, setting: "Setting") -> None:
        """Raises a SettingError for values that cannot be run together."""

    def check_pruning(self, setting: "Setting") -> None:
        """Raises a SettingError for schedules of pruning that leave no weight of the setting's network."""

    def within(self, setting: "Setting") -> Self:
        """The options that the setting can run: without steps past the end of its training, levels above its own, and
        counts above its limits. A shortened setting uses this."""
        kept: dict[str, Any] = {}
        for name, (_, rule) in rules(self).items():
            found = getattr(self, name)
            several = isinstance(found, tuple)
            if rule.step and several:
                kept[name] = tuple(step for step in found if step < setting.steps)
            elif rule.levels_above is not None:
                most = setting.levels - rule.levels_above
                kept[name] = tuple(level for level in found if level <= most) if several else min(found, most)
            elif rule.at_most:
                kept[name] = min(found, getattr(setting, rule.at_most))
        return dataclasses.replace(self, **kept)

    def unset(self, **examples: object) -> str:
        """Which of these values are empty, and how to give them, as the end of a sentence: why an experiment does not
        apply to a setting. Empty if it has them all."""
        names = [name for name in examples if not getattr(self, name)]
        give = " ".join(f"{name}={examples[name]}" for name in names)
        return f"it has no {' and no '.join(names)}; give such as --set {give}" if names else ""
