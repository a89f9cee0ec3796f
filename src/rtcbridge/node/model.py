"""What a model is: a decorated function or class, its declaration, and how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from rtcbridge.node.params import Param, ParamError, Params, check_declaration

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

PixelFormat = Literal["rgb", "bgr", "i420"]
_FORMATS = ("rgb", "bgr", "i420")
_ATTRIBUTE = "__rtcbridge_model__"
_MAX_SIDE = 8192  # pixels
_SIZE = (640, 480)  # pixels: what browsers send when they are asked for nothing else

T = TypeVar("T")


class ModelError(Exception):
    """The model cannot be used as it is written, or cannot be set up; the text is one line for its author."""


class OutputError(Exception):
    """The model returned what is not a picture."""


@dataclass(frozen=True)
class ModelSpec:
    """The declaration of a model.

    Attributes:
        name: what its author called it.
        title: what a person reads.
        params: its parameters by name, in the order of declaration.
        format: how it gets and returns a picture: `rgb` or `bgr`, uint8 of shape (height, width, 3), or
            `i420`, uint8 of shape (height * 3 // 2, width).
        target: the decorated function or class.
        size: width and height, in pixels, of the frames that it is warmed up for.
    """

    name: str
    title: str
    params: Mapping[str, Param]
    format: PixelFormat
    target: Callable[..., Any]
    size: tuple[int, int] = _SIZE

    def describe(self) -> dict[str, Any]:
        """Return the declaration as REGISTER and the control channel carry it."""
        params = [param.describe(name) for name, param in self.params.items()]
        return {"name": self.name, "title": self.title, "params": params}


@overload
def model(target: T, /) -> T: ...
@overload
def model(
    *,
    params: Mapping[str, Param] | None = None,
    name: str = "",
    title: str = "",
    format: PixelFormat = "rgb",
    size: tuple[int, int] = _SIZE,
) -> Callable[[T], T]: ...
def model(
    target: Any = None,
    /,
    *,
    params: Mapping[str, Param] | None = None,
    name: str = "",
    title: str = "",
    format: PixelFormat = "rgb",
    size: tuple[int, int] = _SIZE,
) -> Any:
    """Mark a function or a class as a model; it stays what it was and can be called as before.

    A function is `f(frame)` or `f(frame, params)`. A class has `process` (or `__call__`) with `frame`, then
    optionally `params`, then optionally the session's state, and may have `setup()`, called once before the
    node registers, and `session()`, called for each session, whose result is that state; a `close()` of the
    state is called when the session ends. Parameters are class attributes or the `params` given here.
    All calls come from one thread, one at a time. The frame is the model's own and may be written to.

    Args:
        params: parameters by name, beside those that a class has as attributes.
        name: instead of the name of the function or class.
        title: what a person reads; made from the name when empty.
        format: `rgb`, `bgr` or `i420`, see ModelSpec.
        size: width and height, in pixels, of the frame that goes through the model before the node registers.
            Clients' frames come as they are, whatever it says.

    Raises:
        ModelError: the declaration is not right; the text says where.
    """

    def mark(target: Any) -> Any:
        found = dict(params or {})
        if inspect.isclass(target):
            for base in reversed(target.__mro__):
                found |= {key: value for key, value in vars(base).items() if isinstance(value, Param)}
        elif not callable(target):
            raise ModelError("@rtcbridge.model belongs on a function or a class")
        own = name or target.__name__.strip("_").lower()
        try:
            check_declaration(found)
        except ParamError as error:
            raise ModelError(f"model {own}: {error}") from None
        if format not in _FORMATS:
            raise ModelError(f"model {own}: format: expected {', '.join(_FORMATS)}, not {format!r}")
        if not _is_size(size):
            expected = f"expected width and height, two even numbers of pixels from 2 to {_MAX_SIDE}"
            raise ModelError(f"model {own}: size: {expected}, not {size!r}")
        spec = ModelSpec(own, title or own.replace("_", " ").capitalize(), found, format, target, (size[0], size[1]))
        _arity(spec)
        setattr(target, _ATTRIBUTE, spec)
        return target

    return mark if target is None else mark(target)


def _is_size(size: object) -> bool:
    """Say whether this is the size of an I420 picture."""
    if not isinstance(size, tuple | list) or len(size) != 2:
        return False
    return all(type(side) is int and 2 <= side <= _MAX_SIDE and side % 2 == 0 for side in size)


def spec_of(target: object) -> ModelSpec | None:
    """Return the declaration of a decorated function or class, or None."""
    spec = getattr(target, _ATTRIBUTE, None)
    # A subclass inherits the attribute, but is a model only when it is decorated itself.
    return spec if isinstance(spec, ModelSpec) and spec.target is target else None


def _arity(spec: ModelSpec) -> int:
    """How many of frame, params and state the model takes. Raises ModelError."""
    most, allowed = 2, "frame and params"
    function: Any = spec.target
    if inspect.isclass(spec.target):
        function = getattr(spec.target, "process", None) or vars(spec.target).get("__call__")
        if function is None:
            raise ModelError(f"model {spec.name}: the class has no method process")
        has_self = not isinstance(inspect.getattr_static(spec.target, function.__name__, None), staticmethod)
        most, allowed = 3, "frame, params and the session's state"
    else:
        has_self = False
    if inspect.iscoroutinefunction(function):
        raise ModelError(f"model {spec.name}: it must not be async; it runs in a thread of its own")
    taken = 0
    for parameter in list(inspect.signature(function).parameters.values())[has_self:]:
        if parameter.kind is parameter.VAR_POSITIONAL:
            return most
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            # What has a default beyond those it can be given is the author's own.
            if parameter.default is not parameter.empty and taken >= most:
                break
            taken += 1
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            taken = most + 1
    if not 1 <= taken <= most:
        raise ModelError(f"model {spec.name}: expected a function of {allowed}")
    return taken


class Model:
    """A model that runs. All methods are called from the one thread that it lives in."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._arity = _arity(spec)
        self._instance: Any = None
        self._call: Callable[..., Any] = spec.target

    def setup(self) -> None:
        """Make the instance of a class and call its `setup`. Whatever these raise comes through."""
        if inspect.isclass(self.spec.target):
            self._instance = self.spec.target()
            self._call = getattr(self._instance, "process", None) or self._instance
            setup = getattr(self._instance, "setup", None)
            if setup is not None:
                setup()

    def open_session(self) -> Any:
        """Return the state of a new session, or None for a model without any."""
        session = getattr(self._instance, "session", None)
        return session() if session is not None else None

    def close_session(self, state: Any) -> None:
        """Call the `close` of a session's state, if it has one."""
        close = getattr(state, "close", None)
        if callable(close):
            close()

    def process(self, frame: Picture, params: Params, state: Any) -> Picture:
        """Run the model once. Raises OutputError, or whatever the model raises."""
        result = self._call(*(frame, params, state)[: self._arity])
        return _checked(result, self.spec.format)


def _checked(result: Any, format: PixelFormat) -> Picture:
    import numpy as np

    planar = format == "i420"
    shape = "(height * 3 // 2, width)" if planar else "(height, width, 3)"
    if not isinstance(result, np.ndarray):
        got = "None" if result is None else f"a {type(result).__name__}"
    elif result.dtype != np.uint8:
        got = f"an array of {result.dtype}"
    elif not _is_picture(result.shape, planar):
        got = f"an array of shape {result.shape}"
    else:
        return result
    raise OutputError(f"the model returned {got}; expected a uint8 array of shape {shape}")


def _is_picture(shape: tuple[int, ...], planar: bool) -> bool:
    if planar:
        return len(shape) == 2 and shape[0] % 3 == 0 and shape[1] % 2 == 0 and 2 <= shape[1] <= _MAX_SIDE
    return len(shape) == 3 and shape[2] == 3 and all(2 <= side <= _MAX_SIDE for side in shape[:2])
