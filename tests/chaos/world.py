"""Real replicas over a real engine and a real store, behind ways that can be paused, with crowds around them."""

import contextlib
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from chaos import clients, nodes
from chaos.network import Cable, Network
from chaos.oracle import Of, Oracle
from chaos.parts import Link, Program, Replica, free_port, listens, wait_for
from drivers.postgres_server import PostgresServer
from engine.valkey import Server
from rtcbridge.drivers.ledger import KeyStore, open_store
from wire.replicas import haproxy

SKEW = ("+1h", "-30m")  # of the clocks of two replicas, where libfaketime is installed
POOL, PROJECT, FIRST_IN_LINE = "default", "CHAOS1", "PROBE1"

_CONFIG = """
[server]
host = "{host}"
port = {port}
public_url = "ws://127.0.0.1:{port}"
message_rate = 1000
message_burst = 2000
ping_interval = 2.0
ping_timeout = 2.0
drain_timeout = {drain}
shutdown_timeout = 10.0
[sessions]
claim_timeout = 5.0
answer_timeout = 4.0
connect_timeout = 6.0
resume_grace = 5.0
[nodes]
heartbeat = 1.0
missed = 3
[store]
url = "{store}"
[engine]
url = "{engine}"
[log]
format = "json"
[[projects]]
id = "{probe}"
priority = 100
[[pools]]
name = "{pool}"
provider = "static"
slots = 1
lost_timeout = 10.0
"""

_BALANCER = """
global
    maxconn 6000
    stats socket {socket} mode 600 level admin
defaults
    mode http
    balance leastconn
    option redispatch
    retries 3
    timeout connect 2s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
frontend bridge
    bind 127.0.0.1:{port}
    default_backend replicas
backend replicas
    option httpchk GET /readyz
    timeout check 2s
    default-server inter 100ms fall 2 rise 2
{servers}
"""


@dataclass(frozen=True)
class Size:
    """How large a world is."""

    replicas: int = 3
    node_processes: int = 2
    nodes: int = 12  # of each process
    capacity: int = 2
    clients: int = 100
    life: tuple[float, float] = (0.02, 0.3)
    refusing: float = 0.005
    gates: tuple[bool, ...] = ()  # of the processes of nodes, from the first on; the others have one
    claimed: int = 0  # slots that nodes say they have; 0: as many as they have
    leaving: float = 0.1
    closing: float = 0.3
    dropping: float = 0.1
    thinking: float = 0.0
    visits: int = 6
    drain: float = 0.0
    skew: tuple[str, ...] = ()  # of the replicas, from the first on, as libfaketime reads it
    networks: bool = False  # of the replicas' own, for ways that are paused
    balanced: bool = False
    seed: int = 1


@dataclass
class World:
    """All of it. Times of day are those of this process.

    Args:
        folder: for its files.
        postgres: the store's server, which runs.
        size: how large it is to be.
    """

    folder: Path
    postgres: PostgresServer
    size: Size = field(default_factory=Size)

    def __post_init__(self) -> None:
        self.engine = Server(self.folder / "valkey")
        self.store = self.postgres.new_database()
        self.to_engine: list[Link] = []
        self.to_store: list[Link] = []
        self.from_nodes: list[Link] = []
        self.from_clients: list[Link] = []
        self.replicas: list[Replica] = []
        self.networks: list[Network] = []
        self.nodes: list[Program] = []
        self.clients: list[Program] = []
        self.kills: list[float] = []  # of replicas, times of day
        self.losses: list[float] = []  # of the engine: its data, or the way to it; the same
        self.balancer: Program | None = None
        self.port = free_port()  # of the balancer
        size = self.size
        self.count = size.node_processes * size.nodes
        self.node_rows = range(1, self.count + 1)
        self.process_rows = range(self.node_rows.stop, self.node_rows.stop + size.node_processes)
        self.client_row = self.process_rows.stop
        self.oracle = Oracle.make(self.folder / "oracle", self.client_row)
        with open_store(self.store) as database:
            keys = KeyStore(database)
            self.key, self.probe_key = keys.create_client_key(PROJECT), keys.create_client_key(FIRST_IN_LINE)
            self._node_key = keys.create_node_key(POOL)
            keys.close()
        self.logs = {name: self.folder / f"{name}.log" for name in ("nodes", "clients")}
        for log in self.logs.values():
            log.touch()

    def everything(self) -> Iterator[Program]:
        """All processes but those of the engine and the store."""
        yield from self.clients
        yield from self.nodes
        if self.balancer is not None:
            yield self.balancer
        yield from self.replicas
        for links in (self.to_engine, self.to_store, self.from_nodes, self.from_clients):
            yield from links

    def start(self) -> None:
        """Start all, and return when every node is registered."""
        self.engine.start()
        for number in range(self.size.replicas):
            self._make_replica(number)
        for replica in self.replicas:
            replica.wait_ready()
        if self.size.balanced:
            self._make_balancer()
        self._make_nodes()
        self.wait_nodes()
        self._make_clients()

    def stop(self) -> None:
        """End all."""
        for program in self.everything():
            if program.runs:
                program.thaw()
                program.kill()
        self.engine.kill()
        for network in self.networks:
            network.remove()

    def _make_replica(self, number: int) -> None:
        folder, port, inside = self.folder, free_port(), "127.0.0.1"
        network, cables = None, dict[str, Cable]()
        if self.size.networks:
            network = Network()
            self.networks.append(network)
            cables = {name: network.cable() for name in ("engine", "store", "nodes", "clients", "host")}
            inside = cables["host"].inside
        for where, name, server in (
            (self.to_engine, "engine", self.engine.port), (self.to_store, "store", self.postgres.port)
        ):  # fmt: skip
            cable = cables.get(name)
            host = cable.outside if cable is not None else "127.0.0.1"
            where.append(Link(f"{name}-{number}", f"127.0.0.1:{server}", folder, cable, host))
            where[-1].start()
        config = folder / f"replica-{number}.toml"
        config.write_text(self._config(port, "0.0.0.0" if network else inside, self.to_store[-1], self.to_engine[-1]))
        skew = self.size.skew[number] if number < len(self.size.skew) else ""
        log = folder / f"replica-{number}.log"
        self.replicas.append(Replica(str(number), port, config, log, skew, network, inside))
        self.replicas[-1].start()
        for where, name in ((self.from_nodes, "nodes"), (self.from_clients, "clients")):
            cable = cables.get(name)
            host = cable.inside if cable is not None else "127.0.0.1"
            where.append(Link(f"{name}-{number}", f"{host}:{port}", folder, cable))
            where[-1].start()

    def _config(self, port: int, host: str, to_store: Link, to_engine: Link) -> str:
        store = self.postgres.url(self.store.rpartition("/")[2], to_store.port, to_store.host)
        return _CONFIG.format(
            host=host, port=port, drain=self.size.drain, store=store,
            engine=f"redis://{to_engine.host}:{to_engine.port}", probe=FIRST_IN_LINE, pool=POOL,
        )  # fmt: skip

    def _make_balancer(self) -> None:
        program = haproxy()
        assert program is not None
        config = self.folder / "balancer.cfg"
        servers = "\n".join(f"    server {each.name} {each.host}:{each.port} check" for each in self.replicas)
        config.write_text(_BALANCER.format(port=self.port, socket=self.folder / "balancer.sock", servers=servers))
        self.balancer = Program("balancer", [program, "-db", "-f", str(config)], self.folder / "links.log")
        self.balancer.start()
        wait_for(lambda: listens(self.port), "the balancer")
        wait_for(lambda: all(self.is_balanced(each) for each in self.replicas), "the balancer's checks")

    def is_balanced(self, replica: Replica) -> bool:
        """Say whether the balancer sends connections to a replica."""
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.folder / "balancer.sock"))
            control.sendall(b"show stat\n")
            text = b"".join(iter(lambda: control.recv(65536), b"")).decode()
        lines = [line.split(",") for line in text.splitlines()]
        return any(line[:2] == ["replicas", replica.name] and line[17] == "UP" for line in lines if len(line) > 17)

    def urls(self, links: Sequence[Link]) -> list[str]:
        """Where nodes or clients dial."""
        ports = [self.port] if self.size.balanced else [link.port for link in links]
        return [f"ws://127.0.0.1:{port}" for port in ports]

    def _crowd(self, kind: str, number: int, setting: Any) -> Program:
        path = self.folder / f"{kind}-{number}.json"
        path.write_bytes(msgspec.json.encode(setting))
        command = [sys.executable, "-m", f"chaos.{kind}", str(path)]
        program = Program(f"{kind}-{number}", command, self.folder / "crowds.log")
        program.start()
        return program

    def _make_nodes(self) -> None:
        size = self.size
        for number in range(size.node_processes):
            rows = list(self.node_rows)[number * size.nodes : (number + 1) * size.nodes]
            setting = nodes.Setting(
                urls=self.urls(self.from_nodes), key=self._node_key, pool=POOL, nodes=[f"node-{row}" for row in rows],
                rows=[*rows, self.process_rows[number]], capacity=size.capacity, life=size.life,
                claimed=size.claimed,
                refusing=size.refusing, gate=number >= len(size.gates) or size.gates[number],
                oracle=str(self.folder / "oracle"),
                log=str(self.logs["nodes"]), seed=size.seed,
            )  # fmt: skip
            self.nodes.append(self._crowd("nodes", number, setting))

    def _make_clients(self) -> None:
        size = self.size
        setting = clients.Setting(
            urls=self.urls(self.from_clients), key=self.key, clients=size.clients, row=self.client_row,
            leaving=size.leaving, closing=size.closing, dropping=size.dropping, thinking=size.thinking,
            visits=size.visits, oracle=str(self.folder / "oracle"), log=str(self.logs["clients"]), seed=size.seed,
        )  # fmt: skip
        self.clients.append(self._crowd("clients", 0, setting))

    # --- what is true ---

    @property
    def of_clients(self) -> Counter[Of]:
        """What clients have counted."""
        return self.oracle.total(range(self.client_row, self.client_row + 1))

    @property
    def of_nodes(self) -> Counter[Of]:
        """What nodes have counted."""
        return self.oracle.total(self.node_rows)

    @property
    def of_messages(self) -> Counter[Of]:
        """What processes of nodes have counted of messages."""
        return self.oracle.total(self.process_rows)

    def wait_nodes(self) -> None:
        """Wait until every node is registered."""
        wait_for(lambda: self.of_nodes[Of.UP] == self.count, "all nodes registered")

    def wait_reservations(self, more: int) -> None:
        """Wait until clients have got so many slots more."""
        goal = self.of_clients[Of.RESERVED] + more
        wait_for(lambda: self.of_clients[Of.RESERVED] >= goal, f"{more} more reservations")


@contextlib.contextmanager
def running(world: World) -> Iterator[World]:
    """Run a world; what its processes logged is in its folder."""
    try:
        world.start()
        yield world
    finally:
        world.stop()
