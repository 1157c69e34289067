"""Torch's methods of an optimizer, without an import of the compiler that they do not need."""

import sys
from collections.abc import Callable
from typing import Any


def uncompiled(method: Callable) -> Callable:
    """A bound method of torch's `Optimizer`, without the decorator that keeps the compiler out of it.

    The decorator first imports the compiler, which takes longer than a second in each process. While nobody has
    imported it, nothing is being compiled. What others have put around the method stays.
    """
    bound: Any = method
    function: Any = getattr(bound, "__func__", None)
    if "torch._dynamo" in sys.modules or getattr(function, "__globals__", {}).get("__name__") != "torch._compile":
        return method
    return function.__wrapped__.__get__(bound.__self__)
