"""The configuration: one frozen `Config`, from one TOML file and `RTCBRIDGE_SECTION__KEY` variables.

Every key is explained, with its default, in `config.sample.toml`. Times are in seconds, sizes in bytes.
The environment wins over the file. Whatever is wrong raises `ConfigError`, whose text is one line that
names the source, the key, and what was expected.
"""

from rtcbridge.config.checks import check_pool
from rtcbridge.config.filling import ConfigError
from rtcbridge.config.loading import ENV_PREFIX, RUN_TIME_SETTINGS, load, override, read, variables
from rtcbridge.config.options import (
    CommandOptions,
    DockerOptions,
    Ec2Options,
    KubernetesOptions,
    LocalOptions,
    SshOptions,
    StaticOptions,
)
from rtcbridge.config.pool import BUILT_IN_PROVIDERS, PROVIDER_GROUP, PluginPool, Pool, plugins
from rtcbridge.config.shape import ProjectSettings, Schedule
from rtcbridge.config.tables import (
    Auth,
    Cloudflare,
    Coturn,
    Engine,
    Ice,
    IceServer,
    Log,
    Nodes,
    Server,
    Sessions,
    Store,
    Twilio,
)
from rtcbridge.config.whole import Config

__all__ = [
    "BUILT_IN_PROVIDERS",
    "ENV_PREFIX",
    "PROVIDER_GROUP",
    "RUN_TIME_SETTINGS",
    "Auth",
    "Cloudflare",
    "CommandOptions",
    "Config",
    "ConfigError",
    "Coturn",
    "DockerOptions",
    "Ec2Options",
    "Engine",
    "Ice",
    "IceServer",
    "KubernetesOptions",
    "LocalOptions",
    "Log",
    "Nodes",
    "PluginPool",
    "Pool",
    "ProjectSettings",
    "Schedule",
    "Server",
    "Sessions",
    "SshOptions",
    "StaticOptions",
    "Store",
    "Twilio",
    "check_pool",
    "load",
    "override",
    "plugins",
    "read",
    "variables",
]
