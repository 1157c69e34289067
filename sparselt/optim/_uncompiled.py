"""Calls the methods of torch's `Optimizer` without importing torch's compiler."""

import sys
from collections.abc import Callable
from typing import Any


def uncompiled(method: Callable) -> Callable:
    """The method, without torch's decorator while nobody has imported the compiler.

    Torch decorates some methods of its optimizers, so that the compiler leaves them out. The decorator imports the
    compiler first, which takes more than a second in each process. Without that import nothing is being compiled, and
    the decorator has no use. Decorators of others stay.

    method: a bound method of an optimizer.
    """
    bound: Any = method
    function: Any = getattr(bound, "__func__", None)
    if "torch._dynamo" in sys.modules or getattr(function, "__globals__", {}).get("__name__") != "torch._compile":
        return method
    return function.__wrapped__.__get__(bound.__self__)
