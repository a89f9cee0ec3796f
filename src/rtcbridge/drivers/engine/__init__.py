"""What the replicas of a bridge share: in this process, or in a Valkey or Redis server."""

from rtcbridge.drivers.engine.memory import MemoryEngine, MemoryHub
from rtcbridge.drivers.engine.url import EngineUrl, parse_engine_url
from rtcbridge.ports_engine import Engine, EngineError

__all__ = ["EngineUrl", "MemoryEngine", "MemoryHub", "open_engine", "parse_engine_url"]


def open_engine(url: str, name: str = "bridge", *, grace: float = 60.0) -> Engine:
    """Make the engine of an address; `start` connects it. Raises EngineError.

    Args:
        url: the value of `engine.url`.
        name: of this replica, for people.
        grace: seconds for which a live session of a dead replica keeps its slot.
    """
    parsed = parse_engine_url(url)
    if parsed.memory:
        return MemoryEngine(None, name, grace=grace)
    try:
        from rtcbridge.drivers.engine.redis_engine import RedisEngine
    except ImportError:
        raise EngineError("engine.url needs the package redis: pip install 'rtcbridge[redis]'") from None
    return RedisEngine(parsed, name, grace=grace)
