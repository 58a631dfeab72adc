"""Public names of a package that are loaded when they are first used, so that importing the package costs nothing."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Lazy = tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]


def attach(package: str, home: Mapping[str, Iterable[str]], modules: Iterable[str] = ()) -> Lazy:
    """What a package's `__init__.py` calls `__all__`, `__getattr__` and `__dir__` (PEP 562).

    Args:
        package: its `__name__`.
        home: its modules, each with the names that the package takes from there.
        modules: modules that are public themselves.
    """
    where = {name: module for module, names in home.items() for name in names}
    whole = frozenset(modules)
    public = sorted({*where, *whole})

    def get(name: str) -> Any:
        if name in whole:
            return importlib.import_module(f"{package}.{name}")
        if name in where:
            return getattr(importlib.import_module(f"{package}.{where[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return public, get, lambda: list(public)
