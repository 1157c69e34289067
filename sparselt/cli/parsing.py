"""How the commands read numbers. A mistake is answered in words; tyro itself lists the types that it tried."""

from types import NoneType
from typing import get_args

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

_EXPECTED: dict[type, str] = {int: "a whole number, such as 3", float: "a number, such as 0.5"}

NUMBERS = ConstructorRegistry()
"""For `tyro.cli`: reads `int`, `float`, `int | None` and `float | None`."""


@NUMBERS.primitive_rule
def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    kinds = [kind for kind in get_args(info.type) or (info.type,) if kind is not NoneType]
    if len(kinds) != 1 or kinds[0] not in _EXPECTED:
        return None
    kind = kinds[0]

    def read(texts: list[str]) -> int | float:
        try:
            return kind(texts[0])
        except ValueError as error:
            raise ValueError(f"it is {texts[0]!r}; expected {_EXPECTED[kind]}") from error

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=read,
        is_instance=lambda instance: instance is None or isinstance(instance, int | float),
        str_from_instance=lambda instance: [str(instance)],
    )
