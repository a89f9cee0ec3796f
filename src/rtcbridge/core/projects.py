"""Projects: who goes first, how many sessions each may have, and what each has."""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from math import inf
from typing import TYPE_CHECKING

from rtcbridge.core.spec import ProjectSpec

if TYPE_CHECKING:
    from rtcbridge.core.line import Key
    from rtcbridge.core.ranked import RankedLine


class Account:
    """What one project has over all pools. `rank` is its priority, negated: the lowest goes first."""

    __slots__ = ("held", "limit", "rank", "shares", "spec")

    def __init__(self, spec: ProjectSpec) -> None:
        self.spec = spec
        self.rank = float(-spec.priority)
        self.limit = spec.max_sessions or inf
        self.held = 0  # slots
        self.shares: list[Share] = []


class Share:
    """What one project has in one pool.

    Args:
        account: of the project.
        limit: slots that it may hold in this pool; infinity for no maximum.
        line: of the pool.
        stir: called when another pool has changed how many of the project's sessions this one may serve.
    """

    __slots__ = ("account", "barred", "capped", "held", "limit", "line", "queued", "stir")

    def __init__(self, account: Account, limit: float, line: "RankedLine", stir: Callable[[], None]) -> None:
        self.account, self.limit, self.line, self.stir = account, limit, line, stir
        self.held = 0  # slots of this pool
        self.capped = limit < inf or account.limit < inf
        self.queued: list[Key] = []  # in line, within the maxima; kept for a capped share only, as is the next
        self.barred: list[Key] = []  # in line, beyond them
        account.shares.append(self)

    @property
    def room(self) -> float:
        """How many more slots the project may have in this pool now."""
        return max(0, min(self.limit - self.held, self.account.limit - self.account.held))

    def count(self, slots: int) -> None:
        """Take in that the project holds so many slots more of this pool, or fewer."""
        self.held += slots
        self.account.held += slots
        if self.account.limit < inf:
            for share in self.account.shares:
                if share.queued or share.barred:
                    share.line.unbalanced[share] = None
                    if share is not self:
                        share.stir()
        elif self.capped:
            self.line.unbalanced[self] = None

    def enter(self, key: "Key") -> bool:
        """Note a session in line; true if it is within the maxima. Those behind it may be beyond them now."""
        index = bisect_left(self.queued, key)
        if index >= self.room or (self.barred and self.barred[0] < key):
            self.barred.insert(bisect_left(self.barred, key), key)
            return False
        self.queued.insert(index, key)
        self.line.unbalanced[self] = None
        return True

    def exit(self, key: "Key", barred: bool) -> None:
        """A session has left the line."""
        keys = self.barred if barred else self.queued
        del keys[bisect_left(keys, key)]
        if self.barred:
            self.line.unbalanced[self] = None


class Projects:
    """The accounts of all projects, those that have no settings too."""

    def __init__(self, specs: Iterable[ProjectSpec] = ()) -> None:
        self._specs = {spec.id: spec for spec in specs}
        self._accounts: dict[str, Account] = {}

    def account(self, project: str) -> Account:
        """Return the account of a project; it is made at the first call."""
        account = self._accounts.get(project)
        if account is None:
            account = self._accounts[project] = Account(self._specs.get(project) or ProjectSpec(id=project))
        return account
