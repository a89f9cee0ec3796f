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


class SessionSpec(Struct, frozen=True, kw_only=True):
    """The times (seconds) and bounds of a session, protocol part 2. `max_session` 0 means without end.

    `ice_servers` is the JSON text of a list of RTCIceServer for the node, or empty.
    """

    claim_timeout: float = 30.0
    answer_timeout: float = 10.0
    connect_timeout: float = 30.0
    resume_grace: float = 60.0
    max_session: float = 0.0
    max_candidates: int = 64
    ice_servers: bytes = b""
