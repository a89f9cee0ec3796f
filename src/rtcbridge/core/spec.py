"""What a pool is told to be: sizes and times."""

from msgspec import Struct


class PoolSpec(Struct, frozen=True, kw_only=True):
    """The nodes of one kind. Times are in seconds.

    `elastic` is false for a static pool: it creates nothing, and `max_nodes` does not bind it.
    """

    name: str
    elastic: bool = True
    slots: int = 1
    min_ready: int = 0
    beta: float = 0.0  # ready slots grow with the square root of the demand, see core.policy
    hold_beta: float = 0.0  # the same for what is kept: more is stopped at once; 0 = after idle_timeout only
    demand_window: float = 0.0  # the demand under the root is an average over about so long; 0 = that of the moment
    max_nodes: int = 4
    idle_timeout: float = 120.0
    stopped_timeout: float = 86_400.0  # a node stopped for so long is destroyed; 0 = never
    stopped_reserve: int = 0  # so many stopped nodes are kept however long they are stopped
    fair: bool = False  # within a priority, the project with the fewest slots goes first
    max_per_project: int = 0  # sessions of one project at once in this pool; 0 = no maximum
    overtake_timeout: float = 600.0  # a session is overtaken for so long at most; 0 = without end
    fallback: str = ""  # the pool in which a session is tried that would be told `full` here
    provision_timeout: float = 600.0  # from the create call until the provider has accepted it
    start_timeout: float = 120.0  # the same for the start of a stopped node
    boot_timeout: float = 600.0  # from the provider's word until the node registers
    lost_timeout: float = 60.0  # how long a lost node is awaited
    drain_timeout: float = 3_600.0  # how long a draining node may keep its sessions
    stop_timeout: float = 120.0
    destroy_timeout: float = 120.0
    start_attempts: int = (
        3  # a stopped node whose start was refused so often in a row is destroyed; else it is stopped again
    )
    failed_timeout: float = 60.0  # how long a node that failed to start counts before it is destroyed
    breaker_failures: int = 5  # creations and starts that fail in a row, before a pause; 0 = never pause
    breaker_pause: float = 5.0  # the first pause; one more failure doubles it
    breaker_max_pause: float = 300.0


class Window(Struct, frozen=True, kw_only=True):
    """Sizes that take the place of the pool's own for a while; None leaves the pool's."""

    min_ready: int | None = None
    max_nodes: int | None = None
    stopped_reserve: int | None = None


class ProjectSpec(Struct, frozen=True, kw_only=True):
    """What a project is told to be: the higher `priority` goes first, `max_sessions` 0 means no maximum."""

    id: str
    priority: int = 0
    max_sessions: int = 0


class SessionSpec(Struct, frozen=True, kw_only=True):
    """The times (seconds) and bounds of a session, protocol part 2. `max_session` 0 means without end."""

    claim_timeout: float = 30.0
    answer_timeout: float = 10.0
    connect_timeout: float = 30.0
    resume_grace: float = 60.0
    max_session: float = 0.0
    max_candidates: int = 64
