"""Find the model that the command line names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from rtcbridge.node.model import ModelError, ModelSpec, spec_of
from rtcbridge.node.models import BUILT_IN, built_in


def load_model(reference: str) -> ModelSpec:
    """Return the model called `module:function`, `file.py:function`, or by a built-in name.

    Raises:
        ModelError: there is no such file, module or attribute, it is not a model, or importing it failed; the
            text is one line.
    """
    place, colon, attribute = reference.rpartition(":")
    if not colon:
        if reference in BUILT_IN:
            return built_in(reference)
        names = ", ".join(BUILT_IN)
        raise ModelError(f"model {reference!r}: expected module:function, file.py:function, or one of {names}")
    if not place or not attribute:
        raise ModelError(f"model {reference!r}: expected module:function or file.py:function")
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    try:
        target = getattr(module, attribute)
    except AttributeError:
        models = [name for name, value in vars(module).items() if spec_of(value)]
        hint = f"; it has {', '.join(models)}" if models else ""
        raise ModelError(f"model {reference!r}: {place} has no {attribute!r}{hint}") from None
    spec = spec_of(target)
    if spec is None:
        raise ModelError(f"model {reference!r}: {attribute} is not a model: put @rtcbridge.model on it")
    return spec


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelError(f"model: there is no file {path}")
    path = path.resolve()
    # Under its own name where that is free, so that pickling finds it; a file `json.py` must not become `json`.
    name = path.stem if path.stem not in sys.modules else f"rtcbridge_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"model: {path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    # Its own imports find what lies beside it, as under `python app.py`.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise ModelError(f"model: {path.name} cannot be imported: {_one_line(error)}") from error
    return module


def _load_module(name: str) -> ModuleType:
    # As under `python -m`: modules in the working directory are found.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ModelError(f"model: there is no module {name}") from None
        raise ModelError(f"model: {name} cannot be imported: {_one_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise ModelError(f"model: {name} cannot be imported: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    if isinstance(error, ModelError):
        return str(error)
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
