"""`engine.url`: which engine, where it is, and who we are there."""

from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from rtcbridge.ports_engine import EngineError

_PORTS = {"redis": 6379, "rediss": 6379, "redis+sentinel": 26379, "rediss+sentinel": 26379}
_FORMS = (
    "expected memory://, redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss://…, or redis+sentinel://HOST[:PORT],…/NAME"
)


@dataclass(frozen=True)
class EngineUrl:
    """The parts of an address.

    Attributes:
        hosts: names with ports: of the server, or of the sentinels.
        service: the name by which sentinels know the server; "" without sentinels.
        password: in no text of this object.
    """

    memory: bool = False
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    tls: bool = False
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        """The address without user and password."""
        if self.memory:
            return "memory://"
        scheme = ("rediss" if self.tls else "redis") + ("+sentinel" if self.service else "")
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        path = f"/{self.service}" if self.service else ""
        return f"{scheme}://{hosts}{path}/{self.database}"


def parse_engine_url(text: str) -> EngineUrl:
    """Take an address apart. Raises EngineError: one line, without what may be a password.

    Args:
        text: `memory://`, `redis://` or `rediss://` with host, port and number of the database, or
            `redis+sentinel://` (`rediss+sentinel://`) with the sentinels and the service's name, then the number. User
            and password are percent-encoded.
    """
    if text == "memory://":
        return EngineUrl(memory=True)
    try:
        url = urlsplit(text)
        scheme, sentinel = url.scheme, url.scheme.endswith("+sentinel")
        if scheme not in _PORTS or url.query or url.fragment:
            raise EngineError(f"engine.url: {_FORMS}")
        username, password, hosts = _authority(url)
        path = [unquote(part) for part in url.path.split("/")[1:] if part]
        service = path.pop(0) if sentinel and path else ""
        database = int(path.pop(0)) if path else 0
    except ValueError:
        raise EngineError(f"engine.url: {_FORMS}") from None
    if path or not hosts or sentinel is not bool(service) or (len(hosts) > 1 and not sentinel) or database < 0:
        raise EngineError(f"engine.url: {_FORMS}")
    return EngineUrl(False, hosts, service, scheme.startswith("rediss"), database, username, password)


def _authority(url: SplitResult) -> tuple[str, str, tuple[tuple[str, int], ...]]:
    """User, password, and the hosts with their ports."""
    who, _, where = url.netloc.rpartition("@")
    username, _, password = who.partition(":")
    hosts = []
    for each in where.split(","):
        part = urlsplit(f"//{each}")
        if not part.hostname or part.path:
            raise ValueError
        hosts.append((part.hostname, part.port or _PORTS[url.scheme]))
    return unquote(username), unquote(password), tuple(hosts)
