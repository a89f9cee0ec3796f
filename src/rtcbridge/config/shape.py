"""The tables that shape pools: schedules, projects, fallbacks."""

from collections.abc import Collection, Mapping
from typing import Annotated

from msgspec import Meta, Struct

from rtcbridge.config import schedules
from rtcbridge.config.kinds import (
    Cron,
    NodeCount,
    OtherPool,
    Project,
    Ready,
    SecondsOrZero,
    SessionCount,
    TimeOfDay,
    Zone,
)
from rtcbridge.core.fallback import chain
from rtcbridge.core.spec import PoolSpec, ProjectSpec, Window


class Schedule(Struct, frozen=True, kw_only=True):
    """One `[[pools.schedules]]` table: sizes that are in force in a window of time."""

    cron: Cron = ""
    duration: SecondsOrZero = 0.0
    until: TimeOfDay = ""
    timezone: Zone = "UTC"
    min_ready: Ready | None = None
    max_nodes: NodeCount | None = None
    stopped_reserve: NodeCount | None = None

    def compiled(self) -> schedules.Schedule:
        """The schedule as it is followed. Raises ValueError: `cron` or `timezone` is wrong."""
        window = Window(min_ready=self.min_ready, max_nodes=self.max_nodes, stopped_reserve=self.stopped_reserve)
        return schedules.Schedule(self.cron, self.timezone, window, duration=self.duration, until=self.until)


class ProjectSettings(Struct, frozen=True, kw_only=True):
    """One `[[projects]]` table: what is set for the clients of one project."""

    id: Project = ""
    pool: OtherPool = ""
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    max_sessions: SessionCount = 0

    def spec(self) -> ProjectSpec:
        """The project as the pure core wants it."""
        return ProjectSpec(id=self.id, priority=self.priority, max_sessions=self.max_sessions)


def schedule_mistake(schedule: Schedule, pool: PoolSpec) -> str | None:
    """Say what is wrong with a schedule of a pool: the key, and what was expected."""
    if bool(schedule.duration) == bool(schedule.until):
        return "duration: expected either a duration in seconds, or until"
    if schedule.min_ready is schedule.max_nodes is schedule.stopped_reserve is None:
        return "min_ready: expected min_ready, max_nodes or stopped_reserve"
    max_nodes = pool.max_nodes if schedule.max_nodes is None else schedule.max_nodes
    min_ready = pool.min_ready if schedule.min_ready is None else schedule.min_ready
    if pool.elastic and min_ready > (most := max_nodes * pool.slots):
        return f"min_ready: expected at most max_nodes times slots = {most}, got {min_ready}"
    try:
        schedule.compiled()
    except ValueError as error:
        return str(error)
    return None


def fallback_mistake(pool: str, fallbacks: Mapping[str, str]) -> str | None:
    """Say what is wrong with the fallback of a pool; `fallbacks` has that of each pool."""
    fallback = fallbacks[pool]
    if fallback and fallback not in fallbacks:
        return f"fallback: expected the name of another pool, and there is no {fallback}"
    try:
        chain(pool, fallbacks)
    except ValueError as error:
        return f"fallback: expected no way back to a pool, got {error}"
    return None


def project_mistake(project: ProjectSettings, pools: Mapping[str, Collection[str]]) -> str | None:
    """Say what is wrong with the table of a project; `pools` has the projects that each pool names."""
    if not project.id:
        return "id: expected six characters A-Z 0-9"
    if not project.pool:
        return None
    if project.pool not in pools:
        return f"pool: expected the name of a pool, and there is no {project.pool}"
    named = [name for name, projects in pools.items() if project.id in projects]
    if named and project.pool not in named:
        return f"pool: expected {named[0]}, which names this project, or nothing, got {project.pool}"
    if not named and pools[project.pool]:
        return f"pool: expected a pool whose projects name {project.id}, or are empty, got {project.pool}"
    return None
