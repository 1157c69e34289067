"""From the JSON of a stage's spec back to the values it was made of."""

from collections.abc import Mapping
from typing import Any

from sparselt.data import Digits, ImageFolder, SyntheticImages
from sparselt.training.recipe import Recipe
from sparselt.training.schedule import Schedule


def recipe_from_spec(spec: Mapping[str, Any]) -> Recipe:
    """The `Recipe` that `sparselt.runs.stage.plain` turned into `spec`."""
    schedule = {**spec["schedule"], "milestones": tuple(spec["schedule"]["milestones"])}
    return Recipe(**{**spec, "schedule": Schedule(**schedule)})


def source_from_spec(spec: Mapping[str, Any]) -> Digits | ImageFolder | SyntheticImages:
    """The data source that `sparselt.data.source_record` turned into `spec`."""
    fields = dict(spec)
    kinds = {source.kind: source for source in (Digits, ImageFolder, SyntheticImages)}
    return kinds[fields.pop("kind")](**fields)
