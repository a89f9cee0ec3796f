"""The pools of one bridge, which know of each other: projects have maxima over all of them, and some fall back."""

from collections.abc import Callable, Iterable

from rtcbridge.core.pool import Pool
from rtcbridge.core.projects import Projects
from rtcbridge.core.spec import PoolSpec, ProjectSpec


class Pools(dict[str, Pool]):
    """The pools by name.

    `unsettled` are those that are to be settled because a call of another pool has changed them; whoever settles them
    takes them out.

    Args:
        specs: of the pools; a `fallback` is among them, and none falls back to itself by any way.
        projects: those with settings.
        make: makes a pool of its spec, the accounts of the projects, and what it calls to be settled.
    """

    def __init__(
        self,
        specs: Iterable[PoolSpec],
        projects: Iterable[ProjectSpec] = (),
        make: Callable[[PoolSpec, Projects | None, Callable[[str], object]], Pool] = Pool,
    ) -> None:
        super().__init__()
        self.unsettled: dict[str, Pool] = {}
        specs, projects = list(specs), [each for each in projects if each.priority or each.max_sessions]
        ranked = bool(projects) or any(spec.fair or spec.max_per_project for spec in specs)
        accounts = Projects(projects) if ranked else None
        for spec in specs:
            self[spec.name] = make(spec, accounts, self._stirred)
        for spec in specs:
            if spec.fallback:
                self[spec.name].fallback = self[spec.fallback]

    def _stirred(self, name: str) -> None:
        self.unsettled[name] = self[name]
