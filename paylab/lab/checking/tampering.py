"""Notices when a solution changed paylab itself, such as the checks that judge it."""

import sys
import types
from typing import Any

# What Python itself keeps in a class as it goes along.
CACHES = ("__slotnames__", "_abc_impl", "__abstractmethods__")
Fingerprint = dict[tuple[str, str], tuple[int, ...]]


def fingerprint() -> Fingerprint:
    """What every module of paylab holds: functions by their code, classes and tables by what is in them."""
    found: Fingerprint = {}
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == "paylab" and isinstance(module, types.ModuleType):
            for name, value in list(vars(module).items()):
                # A private table, such as that of the open labs, changes by itself.
                if not name.startswith("_") or isinstance(value, types.FunctionType | type):
                    found[module_name, name] = _identity(value)
    return found


def _identity(value: Any) -> tuple[int, ...]:
    if isinstance(value, types.FunctionType):
        return (id(value), id(value.__code__), id(value.__defaults__), id(value.__kwdefaults__))
    if isinstance(value, type) and value.__module__.startswith("paylab"):
        own = [_identity(each) for name, each in sorted(vars(value).items()) if name not in CACHES]
        return (id(value), *(number for numbers in own for number in numbers))
    if isinstance(value, dict):
        return (id(value), *(id(each) for pair in value.items() for each in pair))
    if isinstance(value, list):
        return (id(value), *map(id, value))
    return (id(value),)


def changed(before: Fingerprint, after: Fingerprint) -> str:
    """The first name that does not mean what it meant; empty when all do."""
    for place, identity in before.items():
        if after.get(place) != identity:
            return ".".join(place)
    return ""
