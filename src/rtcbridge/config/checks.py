"""The mistakes that lie between keys."""

import ipaddress
import os
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

from rtcbridge.config.filling import ConfigError, shown
from rtcbridge.config.options import CommandOptions, DockerOptions, Ec2Options, KubernetesOptions, SshOptions
from rtcbridge.config.pool import Pool
from rtcbridge.config.shape import fallback_mistake, project_mistake, schedule_mistake
from rtcbridge.config.tables import Ice, Server
from rtcbridge.config.whole import Config

_TWILIO_LONGEST = 86_400  # seconds


def check(config: Config, where: Callable[[str], str]) -> None:
    """Find the mistakes that lie between keys; `where` names a key in an error."""
    _check_server(config.server, where)
    _check_ice(config.ice, where)
    if not config.pools:
        raise ConfigError(f"{where('pools')}: expected at least one pool")
    for index, pool in enumerate(config.pools):
        here = f"{where('pools').removesuffix('pools')}[[pools]] {shown(pool.name)}"
        if pool.name in [other.name for other in config.pools[:index]]:
            raise ConfigError(f"{here}: name: expected a name of its own, another pool has this one")
        check_pool(pool, here)
        if mistake := fallback_mistake(pool.name, {other.name: other.fallback for other in config.pools}):
            raise ConfigError(f"{here}: {mistake}")
    _check_projects(config, where)
    if config.engine.is_shared:
        _check_shared(config, where)


def _check_shared(config: Config, where: Callable[[str], str]) -> None:
    """Find what several bridges cannot do together."""
    only = "nothing, since engine.url is not memory://"
    for pool in config.pools:
        here = f"{where('pools').removesuffix('pools')}[[pools]] {shown(pool.name)}"
        for key in ("fair", "fallback"):
            if getattr(pool, key):
                raise ConfigError(f"{here}: {key}: expected {only}")
    for index, project in enumerate(config.projects):
        if project.max_sessions:
            raise ConfigError(f"{where('projects')}[{index}].max_sessions: expected {only}")


def _check_projects(config: Config, where: Callable[[str], str]) -> None:
    for index, project in enumerate(config.projects):
        here = f"{where('projects')}[{index}]"
        if project.id in [other.id for other in config.projects[:index]]:
            raise ConfigError(f"{here}.id: expected an id of its own, another table has {project.id}")
        if mistake := project_mistake(project, {pool.name: pool.projects for pool in config.pools}):
            raise ConfigError(f"{here}.{mistake}")


def _check_ice(ice: Ice, where: Callable[[str], str]) -> None:
    for index, server in enumerate(ice.servers):
        here = f"{where('ice.servers')}[{index}]"
        if not server.urls:
            raise ConfigError(f"{here}.urls: expected at least one address")
        if not (server.username and server.credential) and any(url.startswith("turn") for url in server.urls):
            raise ConfigError(f"{here}: expected username and credential, since a TURN server wants them")
    for names in (("coturn.urls", "coturn.secret"), ("cloudflare.key_id", "cloudflare.api_token")):
        _check_both(ice, names, where)
    twilio = ice.twilio
    _check_both(ice, ("twilio.api_key", "twilio.api_secret"), where)
    if twilio.account_sid and not (twilio.auth_token or twilio.api_key):
        raise ConfigError(f"{where('ice.twilio.auth_token')}: expected a text, or else api_key and api_secret")
    if (twilio.auth_token or twilio.api_key) and not twilio.account_sid:
        raise ConfigError(f"{where('ice.twilio.account_sid')}: expected a text")
    if twilio.ttl > _TWILIO_LONGEST:
        raise ConfigError(f"{where('ice.twilio.ttl')}: expected at most {_TWILIO_LONGEST}, which is Twilio's own limit")
    urls = [*ice.coturn.urls, *(url for server in ice.servers for url in server.urls)]
    if ice.policy == "relay" and not (
        ice.cloudflare.key_id or twilio.account_sid or any(url.startswith("turn") for url in urls)
    ):
        raise ConfigError(f"{where('ice.policy')}: expected a TURN server in [ice], since nothing connects without one")


def _check_both(ice: Ice, names: tuple[str, str], where: Callable[[str], str]) -> None:
    """Two keys of a driver go together, or both are left out."""
    values = [attrgetter(name)(ice) for name in names]
    for name, value, other in zip(names, values, reversed(values), strict=True):
        if other and not value:
            what = "at least one address" if name.endswith("urls") else "a text"
            raise ConfigError(f"{where(f'ice.{name}')}: expected {what}")


def _check_server(server: Server, where: Callable[[str], str]) -> None:
    for key, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        file = getattr(server, key)
        if not file and getattr(server, other):
            raise ConfigError(f"{where(f'server.{key}')}: expected a file, since {other} is set")
        if file and not os.path.isfile(file):
            raise ConfigError(f"{where(f'server.{key}')}: expected a file, and {file} is none")
    if int(server.metrics.rpartition(":")[2] or 0) > 65535:
        raise ConfigError(f"{where('server.metrics')}: expected a port up to 65535, got {shown(server.metrics)}")
    for proxy in server.trusted_proxies:
        try:
            ipaddress.ip_network(proxy, strict=False)
        except ValueError:
            expected = "expected IP addresses or networks such as 10.0.0.0/8"
            raise ConfigError(f"{where('server.trusted_proxies')}: {expected}, got {shown(proxy)}") from None


def check_pool(pool: Pool, here: str) -> None:
    """Find the mistakes that lie between the keys of a pool; raises ConfigError, with `here` before the key."""
    most = pool.max_nodes * pool.slots
    if pool.provider != "static" and pool.min_ready > most:
        raise ConfigError(f"{here}: min_ready: expected at most max_nodes times slots = {most}, got {pool.min_ready}")
    if pool.hold_beta and pool.hold_beta < pool.beta:
        raise ConfigError(f"{here}: hold_beta: expected 0, or at least beta = {pool.beta:g}, got {pool.hold_beta:g}")
    for index, schedule in enumerate(pool.schedules):
        if mistake := schedule_mistake(schedule, pool.spec()):
            raise ConfigError(f"{here}: schedules[{index}].{mistake}")
    if check := _CHECKS.get(pool.provider):
        check(getattr(pool, pool.provider), f"{here}: {pool.provider}")


def _check_command(options: CommandOptions, here: str) -> None:
    for key in ("create", "start", "stop", "destroy"):
        if not getattr(options, key).strip():
            raise ConfigError(f"{here}.{key}: expected a shell command")


def _check_docker(options: DockerOptions, here: str) -> None:
    if not options.image.strip():
        raise ConfigError(f"{here}.image: expected the name of an image")


def _check_ssh(options: SshOptions, here: str) -> None:
    if not options.hosts:
        raise ConfigError(f"{here}.hosts: expected at least one host")
    twice = [host for index, host in enumerate(options.hosts) if host in options.hosts[:index]]
    if twice:
        raise ConfigError(f"{here}.hosts: expected each host once, got {twice[0]} twice; see nodes_per_host")
    if not options.command.strip():
        raise ConfigError(f"{here}.command: expected a shell command that runs `rtcbridge node`")
    for key in ("key", "known_hosts"):
        file = getattr(options, key)
        if file and not os.path.isfile(file):
            raise ConfigError(f"{here}.{key}: expected a file, and {file} is none")


def _check_ec2(options: Ec2Options, here: str) -> None:
    if not options.launch_template and not (options.image and options.instance_types):
        raise ConfigError(f"{here}.launch_template: expected its name or id, or else both image and instance_types")
    if options.subnets and options.zones:
        raise ConfigError(f"{here}.zones: expected none beside subnets, each of which is in one zone")


def _check_kubernetes(options: KubernetesOptions, here: str) -> None:
    for key in ("kubeconfig", "pod_template"):
        file = getattr(options, key)
        if file and not os.path.isfile(file):
            raise ConfigError(f"{here}.{key}: expected a file, and {file} is none")
    if not options.image.strip() and not options.pod_template:
        raise ConfigError(f"{here}.image: expected the name of an image, or a pod_template that has one")


_CHECKS: Mapping[str, Callable[[Any, str], None]] = {
    "command": _check_command,
    "ssh": _check_ssh,
    "docker": _check_docker,
    "ec2": _check_ec2,
    "kubernetes": _check_kubernetes,
}
