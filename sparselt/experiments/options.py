"""The values that one experiment varies: a frozen dataclass, part of a setting."""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from sparselt.errors import SettingError
from sparselt.experiments.values import Rule, rules, typed

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


def check_options(kinds: Mapping[str, type[Options]], taken: Collection[str]) -> None:
    """Whether what experiments vary can be set by name.

    Args:
        kinds: the options of each experiment, by the experiment's name.
        taken: names that a setting has itself.

    Raises:
        SettingError: not a frozen dataclass of Options; a field without a default or a rule, or with a name or type
            that cannot be set.
    """
    owners: dict[str, str] = dict.fromkeys(taken, "every setting")
    for experiment, kind in kinds.items():
        what = f"options of experiment {experiment}"
        if not (isinstance(kind, type) and issubclass(kind, Options) and "__dataclass_fields__" in vars(kind)):
            raise SettingError(
                f"{what}: {kind!r} is no @dataclass(frozen=True) derived from sparselt.experiments.Options"
            )
        for f in dataclasses.fields(kind):
            if not isinstance(f.metadata.get("rule"), Rule) or f.default is dataclasses.MISSING:
                raise SettingError(
                    f"{what}: field {f.name!r} has no rule or no default; expected sparselt.experiments.values.value("
                    "default, help=…)"
                )
            if f.name in owners:
                raise SettingError(
                    f"{what}: {owners[f.name]} has a value {f.name!r} too, so that it could not be set by its name; "
                    "choose another name"
                )
            owners[f.name] = f"experiment {experiment}"
        try:
            for name, (type_, _) in rules(kind).items():
                typed(name, getattr(kind(), name), type_)
        except (SettingError, NameError) as error:
            raise SettingError(f"{what}: default {error}") from error
