"""Sources of images: each a dataclass of this folder, or the user's own by reference or entry point.

A source of this folder is a dataclass under `@source`. Its fields are its options on the command line and its record in
JSON. A source of the user's own is a dataclass derived from `Source`, named by its reference `package.module:Name`. Its
record also holds a digest of the file that defines it, so that an edited source counts as another one.
"""

import dataclasses
import functools
import importlib
import json
import pkgutil
from collections.abc import Mapping

from sparselt import own
from sparselt.data.sources.base import SOURCES, ArraySamples, Source, option, source
from sparselt.errors import DataError, SettingError

__all__ = [
    "ArraySamples",
    "Source",
    "check_source",
    "find_source",
    "option",
    "source",
    "source_from_record",
    "source_names",
    "source_record",
]

_DIGEST = "source_sha256"
_NEEDED = ("classes", "image_shape", "train_count", "test_count")


def source_record(source: Source) -> dict:
    """The source as JSON: its kind, every field and, for one of the user's own, the digest of its file.

    Raises:
        DataError: a source of the user's own that another process cannot import, or whose fields are not JSON.
    """
    cls, fields = type(source), dataclasses.asdict(source)
    if cls in _registered().values():
        return {"kind": source.kind, **fields}
    try:
        record = {"kind": own.reference_to(_checked(cls)), **fields, _DIGEST: own.source_digest(cls)}
        json.dumps(record)
    except (SettingError, TypeError) as error:
        raise DataError(f"{source!r} cannot be recorded as a source: {error}") from error
    return record


def check_source(source: Source) -> None:
    """Raises a DataError unless `source` states its classes, counts and image shape."""
    if isinstance(source, type):
        raise DataError(f"source is the class {source.__name__}; expected one of its values, {source.__name__}(…)")
    try:
        cls = _checked(type(source))
    except SettingError as error:
        raise DataError(str(error)) from error
    for name, least in (("classes", 2), ("train_count", 1), ("test_count", 1)):
        number = getattr(source, name)
        if not isinstance(number, int) or number < least:
            raise DataError(f"{cls.__name__}: {name} is {number!r}; expected a whole number from {least}")
    shape = source.image_shape
    sides = shape if isinstance(shape, tuple) and len(shape) == 3 else (0,)
    if shape != "variable" and not all(isinstance(side, int) and side > 0 for side in sides):
        raise DataError(f"{cls.__name__}: image_shape is {shape!r}; expected (channels, height, width), or 'variable'")


def source_from_record(record: Mapping) -> Source:
    """The source from its `source_record`.

    Raises:
        DataError: not such a record, or the file that defines a source of the user's own has been edited since.
    """
    fields = dict(record)
    kinds = {cls.kind: cls for cls in _registered().values()}
    try:
        kind = fields.pop("kind")
        cls = _checked(own.resolve(kind)) if own.is_reference(kind) else kinds[kind]
        digest = fields.pop(_DIGEST, None)
        if digest is not None and digest != own.source_digest(cls):
            raise DataError(f"the file of {kind} has been edited since the run was planned: start the run again")
        return cls(**fields)
    except (KeyError, TypeError, SettingError) as error:
        raise DataError(
            f"{dict(record)} is not a source of this sparselt ({error}): expected one of {', '.join(kinds)}"
        ) from error


def source_names() -> list[str]:
    """The names that `sparselt data write` knows: the sources of this folder, and those that packages announce."""
    return [*_registered(), *own.entry_points("sparselt.data_sources")]


def find_source(name: str) -> type[Source]:
    """The class of a source: one of `source_names`, or a reference `package.module:Name`.

    Raises:
        DataError: no such name, or what it refers to is not a source.
    """
    known, unknown = _registered(), f"unknown source {name!r}"
    try:
        reference = own.reference_for("sparselt.data_sources", name, known, unknown, "package.module:Name")
        return _checked(own.resolve(reference)) if reference else known[name]
    except SettingError as error:
        raise DataError(str(error)) from error


@functools.cache
def _registered() -> dict[str, type[Source]]:
    modules = [importlib.import_module(found.name) for found in pkgutil.iter_modules(__path__, f"{__name__}.")]
    # By module and line, in whatever order they were imported first.
    order = [thing for module in modules for thing in vars(module).values()]
    return dict(sorted(SOURCES.items(), key=lambda item: order.index(item[1])))


def _checked(cls: object) -> type[Source]:
    """Returns the class. Raises a SettingError, which says what is missing, unless it is a source."""
    if not (isinstance(cls, type) and issubclass(cls, Source)):
        raise SettingError(f"{cls!r} is not a source; expected a frozen dataclass derived from sparselt.data.Source")
    if "__dataclass_fields__" not in vars(cls):
        raise SettingError(f"{cls.__name__} lacks @dataclass(frozen=True); without it its fields are not recorded")
    lacking = [name for name in _NEEDED if name not in cls.__dataclass_fields__ and not hasattr(cls, name)]
    if lacking:
        raise SettingError(f"{cls.__name__} lacks {', '.join(lacking)}; expected them as attributes or fields")
    return cls
