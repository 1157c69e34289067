"""What identifies a stage: its fields by name, in types of JSON, and digests of them."""

import dataclasses
import functools
import hashlib
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class _KeyName:
    """The name of a field in the identity. A tuple of inputs has the number of its first input as well."""

    name: str
    first: int | None = None


def key_name(name: str) -> _KeyName:
    """In `Annotated[…]`: the name of a field in the stage's identity, so that the field itself can be renamed."""
    return _KeyName(name)


def numbered_key_names(name: str, first: int = 0) -> _KeyName:
    """In `Annotated[tuple[StageFile, …], …]`: the inputs are `name_0`, `name_1`, …, counted from `first`."""
    return _KeyName(name, first)


_NOT_IN_KEY = {"not_in_key": True}


def not_in_key(default: Any) -> Any:
    """A field that does not change the result. It is not part of the stage's identity."""
    return field(default=default, metadata=_NOT_IN_KEY)


def to_json(value: Any) -> Any:
    """`value` in types of JSON: a dataclass becomes a dictionary, a tuple a list.

    A dataclass field with the metadata `omit_default` is left out if it has its default value, so that a new field does
    not change earlier digests.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f for f in dataclasses.fields(value) if not _omitted(f, getattr(value, f.name))]
        return {f.name: to_json(getattr(value, f.name)) for f in fields}
    if isinstance(value, Mapping):
        return {str(name): to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def _omitted(f: dataclasses.Field, value: Any) -> bool:
    return bool(f.metadata.get("omit_default")) and value == f.default


def digest(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of `value`."""
    return digest_of_json(to_json(value))


def digest_of_json(value: Any) -> str:
    """Hex SHA-256 of a value in types of JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


Field = tuple[str, str, int | None]
"""A field's name, its name in the identity, and the number of its first input; None unless it is a numbered tuple."""


@functools.cache
def fields_in_key(stage_type: type, input_type: type) -> tuple[list[Field], list[Field]]:
    """The fields that form the identity of a type of stage: its values, then its inputs, annotated `input_type`."""
    hints = get_type_hints(stage_type, include_extras=True)
    values: list[Field] = []
    inputs: list[Field] = []
    for f in dataclasses.fields(stage_type):
        if f.metadata.get("not_in_key"):
            continue
        hint, name_in_key = hints[f.name], _KeyName(f.name)
        if get_origin(hint) is Annotated:
            hint, name_in_key = get_args(hint)
        (inputs if _is_input(hint, input_type) else values).append((f.name, name_in_key.name, name_in_key.first))
    return values, inputs


def _is_input(hint: Any, input_type: type) -> bool:
    if get_origin(hint) in (Union, types.UnionType, tuple):
        return any(_is_input(part, input_type) for part in get_args(hint))
    origin = get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, input_type)
