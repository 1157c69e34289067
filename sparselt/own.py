"""The user's own models, data sources, settings, criteria and experiments, without a change to this repository.

Each is named by a reference, `package.module:name`, or announced by an installed package as an entry point:

    [project.entry-points."sparselt.models"]
    my_network = "my_package.networks:my_network"

The text of the file that defines it decides results, so `source_digest` of it belongs to a stage's key.
"""

import functools
import hashlib
import importlib
import inspect
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

from sparselt.errors import SettingError, SparseltError

Group = Literal[
    "sparselt.models",
    "sparselt.data_sources",
    "sparselt.settings",
    "sparselt.experiments",
    "sparselt.criteria",
]


def is_reference(name: str) -> bool:
    """Whether a name is a reference, `package.module:name`, instead of a registered name."""
    return ":" in name


def resolve(reference: str) -> object:
    """Imports the module, and returns the function, class or value of `package.module:name`.

    Raises:
        SettingError: not such a reference, a module that cannot be imported, a name that it does not define.
    """
    module_name, _, name = reference.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *name.split("."))):
        raise SettingError(f"reference {reference!r} is not understood; expected package.module:name")
    try:
        found: object = importlib.import_module(module_name)
    except Exception as error:
        raise SettingError(
            f"{reference}: module {module_name} cannot be imported ({type(error).__name__}: {error}); install its "
            "package, or start Python where it is found"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise SettingError(f"{reference}: module {module_name} defines no {name!r}; correct the name")
        found = getattr(found, part)
    return found


def resolve_callable(reference: str):
    """`resolve`, for a function or class. SettingError also for a value that cannot be called."""
    found = resolve(reference)
    if not callable(found):
        raise SettingError(f"{reference} is a {type(found).__name__}; expected a function or a class")
    return found


def reference_to(thing: object, what: str = "this") -> str:
    """The reference of a function or class, checked by resolving it.

    what: how messages call it.

    Raises:
        SettingError: it is an object that a function or class has made; or it is defined where no other process can
            import it: in a function, in `__main__`, as a lambda.
    """
    if not hasattr(thing, "__qualname__"):
        raise SettingError(
            f"{what} is an object, a {type(thing).__name__}; expected the function or class that makes it, or its "
            "reference package.module:name: other processes make their own"
        )
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "")
    reference = f"{module}:{name}"
    if module in (None, "__main__") or "<" in name or resolve(reference) is not thing:
        raise SettingError(
            f"{name or thing!r} of {module} cannot be imported by its name; define it at the top of a module of its own"
        )
    return reference


def called(what: str, function: Callable[..., Any], *arguments: object, expected: str) -> Any:
    """What the user's function returns.

    what, expected: how the message begins and ends where it fails.

    Raises:
        SettingError: the function raised anything but a SparseltError, with the line of its file.
    """
    try:
        return function(*arguments)
    except SparseltError:
        raise
    except Exception as error:
        file = getattr(getattr(inspect.unwrap(function), "__code__", None), "co_filename", None)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        where = f" ({Path(str(file)).name}, line {lines[-1]})" if lines else ""
        raise SettingError(f"{what} raised {type(error).__name__}: {error}{where}; expected {expected}") from error


def source_digest(thing: object) -> str:
    """Hex SHA-256 of the file that defines a function or a class (or the class of a value). Any edit changes it.

    Other files that it imports do not count.

    Raises:
        SettingError: it has no source file: built in, compiled, or typed into an interpreter.
    """
    thing = inspect.unwrap(thing) if callable(thing) else type(thing)
    while isinstance(thing, functools.partial):
        thing = inspect.unwrap(thing.func)
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        thing = type(thing)  # an instance that can be called
    try:
        file = inspect.getsourcefile(thing)
        text = Path(file or "").read_bytes()
    except (TypeError, OSError) as error:
        raise SettingError(
            f"{thing!r} has no source file, so that an edit of it could not be noticed; define it in a .py file"
        ) from error
    return hashlib.sha256(text).hexdigest()


def reference_for(
    group: Group, name: str, known: Collection[str], unknown: str, example: str = "package.module:name"
) -> str:
    """The reference that a name stands for: itself, or that of an entry point. Empty for a name in `known`.

    Args:
        known: the names that sparselt has itself.
        unknown, example: how the message for an unknown name begins, and what a reference looks like.

    Raises:
        SettingError: an unknown name; a name of sparselt that an installed package announces as well.
    """
    if name in known:
        check_free(group, name)
        return ""
    announced = entry_points(group)
    if is_reference(name) or name in announced:
        return announced.get(name, name)
    raise SettingError(f"{unknown}; expected one of {', '.join((*known, *announced))}, or your own as {example}")


def check_unedited(what: str, name: str, digest: str | None, digest_of: Callable[[str], str | None]) -> None:
    """Raises a SettingError if the file that defines the user's own model or criterion no longer has this digest."""
    if digest is not None and digest != digest_of(name):
        raise SettingError(f"the file of {what} {name} has been edited since the run was planned; start the run again")


def check_free(group: Group, name: str) -> None:
    """Raises a SettingError where an installed package announces something by a name that sparselt has itself."""
    if reference := entry_points(group).get(name):
        raise SettingError(
            f"an installed package announces {reference} as {name!r} in {group}, but sparselt has {name!r} itself; "
            "announce it by another name"
        )


def package_of(group: Group, name: str) -> str:
    """The installed package that announces an entry point, for messages."""
    from importlib import metadata

    packages = [point.dist.name for point in metadata.entry_points(group=group, name=name) if point.dist]
    return f"the installed package {packages[0]}" if packages else "an installed package"


@functools.cache
def entry_points(group: Group) -> dict[str, str]:
    """The entry points of installed packages: name to reference. Nothing is imported; `resolve` notices broken ones.

    Raises:
        SettingError: two packages announce different things by one name.
    """
    from importlib import metadata  # slow to load, and most commands need no entry points

    found: dict[str, str] = {}
    for point in metadata.entry_points(group=group):
        reference = f"{point.module}:{point.attr}"
        if found.setdefault(point.name, reference) != reference:
            raise SettingError(
                f"two packages announce {point.name!r} in {group}: {found[point.name]} and {reference}; uninstall one, "
                "or refer to it as package.module:name"
            )
    return found
