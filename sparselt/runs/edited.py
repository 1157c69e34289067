"""Which stages of a plan are made anew because a file of the user's was edited."""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from sparselt.runs.store import Store, read_record
from sparselt.stages.stage import Stage

_DIGESTS = {"model_source": "model", "criterion_source": "criterion", "source_sha256": "kind"}
"""The names, in a stage's values, of digests of the user's files, and those of what these files define."""


def edited(store: Store, missing: Iterable[Stage]) -> dict[str, int]:
    """How many missing stages the store has of equal values, made with another text of a file: by what it defines.

    Only these are counted, not the stages that take their files. The values hold a seed for everything random, so equal
    values are the same work.
    """

    @cache
    def stored(kind: str) -> list[dict[str, Any]]:
        return [record for path in (store.root / kind).glob("*/stage.json") if (record := read_record(path))]

    found: dict[str, int] = {}
    for stage in missing:
        digests = dict(_digests(stage.identity_values))
        own = not type(stage).__module__.startswith("sparselt.")
        if not digests and not own:
            continue
        values = _without(stage.identity_values)
        alike = [record for record in stored(stage.kind) if _without(record["spec"]) == values]
        # The store may have several versions. The one that differs in the fewest files tells what was edited.
        versions = [{what for what, digest in digests.items() if _changed(record, what, digest)} for record in alike]
        changed = min(versions, key=len, default=set[str]())
        needs = {name: [file.stage.kind, file.stage.key, file.name] for name, file in stage.inputs.items()}
        if own and any(record.get("needs") == needs and record["spec"] == stage.identity_values for record in alike):
            changed.add(f"stage {type(stage).__qualname__}")
        for what in changed:
            found[what] = found.get(what, 0) + 1
    return found


def _changed(record: dict[str, Any], what: str, digest: str) -> bool:
    return dict(_digests(record["spec"])).get(what, digest) != digest


def _digests(values: Any) -> Iterator[tuple[str, str]]:
    """What the user's files define, such as `model my_module:network`, with their digests, anywhere in the values."""
    flat = dict(_flat(values))
    for name, of in _DIGESTS.items():
        if name in flat:
            yield f"{'source' if of == 'kind' else of} {flat.get(of)}", flat[name]


def _flat(values: Any) -> Iterator[tuple[str, Any]]:
    for name, value in values.items() if isinstance(values, dict) else ():
        yield from _flat(value)
        if not isinstance(value, dict):
            yield name, value


def _without(values: Any) -> Any:
    """The values without digests of files."""
    if not isinstance(values, dict):
        return values
    return {name: _without(value) for name, value in values.items() if name not in _DIGESTS}
