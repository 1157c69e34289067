"""From the JSON of a stage's spec back to the recipe it was made of."""

from collections.abc import Mapping
from typing import Any

from sparselt.training.recipe import Recipe
from sparselt.training.schedule import Schedule
from sparselt.training.techniques import Techniques


def recipe_from_spec(spec: Mapping[str, Any]) -> Recipe:
    """The `Recipe` that `sparselt.runs.stage.plain` turned into `spec`."""
    schedule = {**spec["schedule"], "milestones": tuple(spec["schedule"]["milestones"])}
    techniques = Techniques(**spec["techniques"])
    return Recipe(**{**spec, "schedule": Schedule(**schedule), "techniques": techniques})
