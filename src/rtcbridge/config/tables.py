"""The tables of the configuration that are not of a pool: `[server]`, `[sessions]`, `[store]` and so on."""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from rtcbridge.config.kinds import (
    Argument,
    Bytes,
    Count,
    CredentialLife,
    EngineUrl,
    Host,
    HttpUrl,
    IceUrl,
    Listening,
    PublicUrl,
    Seconds,
    SecondsOrZero,
    StoreUrl,
    Text,
)


class Server(Struct, frozen=True, kw_only=True):
    """`[server]`: where the bridge listens, and the bounds of a connection."""

    host: Host = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    public_url: PublicUrl = ""
    tls_cert: Text = ""
    tls_key: Text = ""
    trusted_proxies: tuple[Argument, ...] = ()
    max_connections: Count = 50_000
    handshake_timeout: Seconds = 10.0
    max_message: Bytes = 65_536
    message_rate: Count = 50
    message_burst: Count = 200
    client_outbox: Bytes = 262_144
    node_outbox: Bytes = 16_777_216
    ping_interval: Seconds = 20.0
    ping_timeout: Seconds = 20.0
    drain_timeout: SecondsOrZero = 0.0
    shutdown_timeout: Seconds = 10.0
    metrics: Listening = ""


class Auth(Struct, frozen=True, kw_only=True):
    """`[auth]`: which credentials are taken from whom."""

    secret_keys_from_browsers: bool = True


class Sessions(Struct, frozen=True, kw_only=True):
    """`[sessions]`: the deadlines and bounds of a client's session."""

    auth_timeout: Seconds = 10.0
    claim_timeout: Seconds = 30.0
    answer_timeout: Seconds = 10.0
    connect_timeout: Seconds = 30.0
    resume_grace: Seconds = 60.0
    max_session: SecondsOrZero = 0.0
    max_candidates: Annotated[int, Meta(ge=1, le=10_000)] = 64
    replay_messages: Annotated[int, Meta(ge=1, le=10_000)] = 256
    replay_bytes: Bytes = 131_072


class Nodes(Struct, frozen=True, kw_only=True):
    """`[nodes]`: when a silent node is lost: after `heartbeat` x `missed` seconds."""

    heartbeat: Annotated[float, Meta(ge=0.1, le=3600)] = 5.0
    missed: Annotated[int, Meta(ge=1, le=100)] = 3


class Store(Struct, frozen=True, kw_only=True):
    """`[store]`: the durable part: keys, nodes, and the ledger of sessions."""

    url: StoreUrl = "sqlite:///rtcbridge.db"

    @property
    def path(self) -> Path | None:
        """The file of the SQLite database; None for PostgreSQL."""
        return Path(self.url.removeprefix("sqlite:///")) if self.url.startswith("sqlite:") else None


class Engine(Struct, frozen=True, kw_only=True):
    """`[engine]`: where the hot state lives."""

    url: EngineUrl = "memory://"

    @property
    def is_shared(self) -> bool:
        """Whether other bridges may share it."""
        return self.url != "memory://"


class IceServer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One STUN or TURN server, with the fields of the W3C's `RTCIceServer`."""

    urls: tuple[IceUrl, ...] = ()
    username: Text = ""
    credential: Text = ""


class Coturn(Struct, frozen=True, kw_only=True):
    """`[ice.coturn]`: a coturn whose `static-auth-secret` is shared with the bridge."""

    urls: tuple[IceUrl, ...] = ()
    secret: Text = ""
    ttl: CredentialLife = 3_600.0


class Cloudflare(Struct, frozen=True, kw_only=True):
    """`[ice.cloudflare]`: Cloudflare's TURN service."""

    key_id: Text = ""
    api_token: Text = ""
    ttl: CredentialLife = 86_400.0
    url: HttpUrl = "https://rtc.live.cloudflare.com"


class Twilio(Struct, frozen=True, kw_only=True):
    """`[ice.twilio]`: Twilio's Network Traversal Service."""

    account_sid: Text = ""
    auth_token: Text = ""
    api_key: Text = ""
    api_secret: Text = ""
    ttl: CredentialLife = 86_400.0
    url: HttpUrl = "https://api.twilio.com"


class Ice(Struct, frozen=True, kw_only=True):
    """`[ice]`: the STUN and TURN servers that nodes and clients are told, and whether they may do without."""

    servers: tuple[IceServer, ...] = ()
    policy: Literal["all", "relay"] = "all"
    coturn: Coturn = Coturn()
    cloudflare: Cloudflare = Cloudflare()
    twilio: Twilio = Twilio()


class Log(Struct, frozen=True, kw_only=True):
    """`[log]`: what is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"
