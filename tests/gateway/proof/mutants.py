"""Mistakes put into the real code, one at a time, to see that they are found."""

import inspect
import textwrap
from typing import Any

import pytest


def mutate(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, old: str, new: str) -> None:
    """Let one method be as if `old` had been written as `new`, until the test is over.

    Args:
        monkeypatch: of the test.
        owner: The class that has the method.
        name: Its name.
        old: A piece of its source, there exactly once.
        new: What stands there instead.
    """
    method: Any = inspect.getattr_static(owner, name)
    function = method.fget if isinstance(method, property) else method
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{owner.__name__}.{name} does not have this once: {old}"
    module = inspect.getmodule(function)
    made: dict[str, Any] = {}
    exec(compile(source.replace(old, new), f"a mutant of {name}", "exec"), vars(module), made)
    monkeypatch.setattr(owner, name, made[name])
