"""What a client may do that has shown a credential: its scopes, the origin of its page, and what its key may use.

A key without restrictions costs nothing here. Sockets and messages are counted by each bridge for itself, sessions by
all that share an engine.
"""

from collections.abc import Callable, Sequence

from rtcbridge.config import Config
from rtcbridge.gateway.recent import RecentCount
from rtcbridge.ports import Bounds, Identity, KeyLimits, TokenTerms

Headers = Sequence[tuple[bytes, bytes]]


def origin_of(headers: Headers) -> str:
    """The `Origin` that a browser sends with a request; "" for none."""
    return next((value.decode("latin-1").strip() for name, value in headers if name == b"origin"), "")


class Use:
    """What is used of one key with limits, over all its sockets on this bridge.

    Attributes:
        sockets: those that are open.
    """

    __slots__ = ("_clock", "_created", "_left", "_limits", "_since", "sockets")

    def __init__(self, limits: KeyLimits, clock: Callable[[], float]) -> None:
        self.sockets: set[object] = set()
        self._limits, self._clock = limits, clock
        self._created = RecentCount()
        self._left = float(limits.messages)
        self._since = clock()

    def limit(self, limits: KeyLimits) -> None:
        """Take in that the limits are others now."""
        self._limits = limits

    def enter(self, socket: object) -> bool:
        """Count a socket; false if there are as many as there may be."""
        if 0 < self._limits.connections <= len(self.sockets):
            return False
        self.sockets.add(socket)
        return True

    def spend(self) -> bool:
        """Count a message; false if there were as many in the last second as there may be."""
        most = self._limits.messages
        if not most:
            return True
        now = self._clock()
        self._left = min(float(most), self._left + (now - self._since) * most)
        self._since = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def create(self) -> bool:
        """Count a session or a client token; false if there were as many in the last minute as there may be."""
        most, now = self._limits.creations, self._clock()
        if most and self._created.total(now) >= most:
            return False
        self._created.add(now)
        return True


class Terms:
    """What a socket goes on under whose credential has restrictions. `bounds`: of its sessions."""

    __slots__ = ("bounds", "use")

    def __init__(self, use: Use, bounds: Bounds) -> None:
        self.use, self.bounds = use, bounds


class Access:
    """Who may do what.

    Args:
        config: The configuration.
        clock: Monotonic seconds.

    Attributes:
        guarded: Each credential is looked at, since secret keys are not taken from browsers.
    """

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self.guarded = not config.auth.secret_keys_from_browsers
        self._config, self._clock = config, clock
        self._uses: dict[str, Use] = {}

    def welcomes(self, identity: Identity, origin: str) -> bool:
        """Whether a credential may be shown by a page of this origin, or by what is no page ("")."""
        restrictions = identity.restrictions
        if restrictions is None or not restrictions.token:
            return not (self.guarded and origin)
        return not restrictions.terms.origins or origin in restrictions.terms.origins

    def admits(self, identity: Identity, origin: str) -> bool:
        """Whether it may open sockets and sessions, too."""
        return self.welcomes(identity, origin) and identity.may("connect")

    def enter(self, identity: Identity, socket: object) -> Terms | None:
        """Count a socket; None if its key has as many as it may have. The identity has restrictions."""
        assert identity.restrictions is not None
        use = self.use(identity)
        return Terms(use, bounds(identity)) if use.enter(socket) else None

    def use(self, identity: Identity) -> Use:
        """Return what is used of a key."""
        limits = identity.restrictions.limits if identity.restrictions is not None else KeyLimits()
        use = self._uses.get(identity.key)
        if use is None:
            use = self._uses[identity.key] = Use(limits, self._clock)
        use.limit(limits)
        return use

    def pool_of(self, identity: Identity) -> str | None:
        """The pool in whose line a client's sessions wait: its project's own, else the first that its token allows.

        None if the token names pools, and the project may use none of them.
        """
        own = self._config.pool_for(identity.project)
        allowed = identity.restrictions.terms.pools if identity.restrictions is not None else ()
        if not allowed or own in allowed:
            return own
        return next((name for name in allowed if self.may_use(identity.project, name)), None)

    def may_use(self, project: str, pool: str) -> bool:
        """Whether a project's sessions may be in a pool: it names the project, or none."""
        found = self._config.pool(pool)
        return found is not None and (not found.projects or project in found.projects)

    def terms_mistake(self, project: str, terms: TokenTerms) -> str | None:
        """Say what is wrong with the terms of a token of this project, if anything is."""
        for pool in terms.pools:
            if not self.may_use(project, pool):
                return f"pools: expected pools that the project may use, got {pool[:60]!r}"
        return None


def bounds(identity: Identity) -> Bounds:
    """What binds the sessions of a client with restrictions."""
    restrictions = identity.restrictions
    assert restrictions is not None
    groups: dict[str, int] = {}
    if restrictions.limits.sessions:
        groups[f"key:{identity.key}"] = restrictions.limits.sessions
    if restrictions.terms.max_sessions:
        groups[f"token:{restrictions.token}"] = restrictions.terms.max_sessions
    return Bounds(groups=groups, max_session=restrictions.terms.max_session)
