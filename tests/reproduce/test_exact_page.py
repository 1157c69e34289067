"""The table of docs/exact.md against the setting that it describes."""

import re
from pathlib import Path

import pytest

from sparselt.reproduce import load_setting

PAGE = (Path(__file__).parents[2] / "docs" / "exact.md").read_text()
ROWS = dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]+?) \|$", PAGE, re.MULTILINE))
SETTING = load_setting("cifar10_resnet20", "paper").checked()
OTHER_PAPERS = ("sibling_", "stability_")


def shown() -> dict[str, object]:
    """The values of the setting's protocol that belong to its own paper."""
    values = {
        name: value
        for name, (value, _, rule) in SETTING.values().items()
        if rule.in_protocol
        and rule.shown(SETTING)
        and (name in SETTING.__dataclass_fields__ or value not in ((), 0, 0.0))
    }
    return {name: value for name, value in values.items() if not name.startswith(OTHER_PAPERS)}


def text(value: object) -> str:
    """The value as `--set` takes it, with spaces between several."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_table_has_every_value_of_the_setting():
    assert list(ROWS) == list(shown())


@pytest.mark.parametrize("name", ROWS)
def test_the_table_says_what_the_setting_has(name):
    assert ROWS[name].partition(";")[0] == text(shown()[name])


def test_the_choices_that_the_page_gives_to_other_scales_make_them_those_of_scale_paper():
    (command,) = re.findall(r"`--scale mini --set ([^`]*)`", PAGE)
    mini = load_setting("cifar10_resnet20", "mini").with_values(command.split())
    names = [assignment.partition("=")[0] for assignment in command.split()]
    assert len(names) == 6
    assert [getattr(mini, name) for name in names] == [getattr(SETTING, name) for name in names]


def test_the_page_names_every_difference_that_the_report_names():
    assert SETTING.differences
    for sentence in SETTING.differences:
        assert sentence in " ".join(PAGE.split())
