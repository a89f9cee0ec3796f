"""The Containerfiles and the compose file: every file, command, variable and key that they name is there."""

import json
import re
import tomllib
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.files import DEPLOY, FILES, ROOT, bridge_config, check_command, check_node, seconds, time_to_stop
from rtcbridge import config
from rtcbridge.cli.api import ENVIRONMENT as ADMIN_ENVIRONMENT
from rtcbridge.cli.node import _ENVIRONMENT as NODE_VARIABLES
from rtcbridge.config import Config
from rtcbridge.ports import Launch

CONTAINERFILES = sorted((DEPLOY / "containers").glob("*.Containerfile"))
COMPOSE = DEPLOY / "compose" / "compose.yaml"
SETTINGS = {
    "POSTGRES_PASSWORD": "0a1b2c",
    "TURN_SECRET": "3d4e5f",
    "PUBLIC_IP": "192.0.2.10",
    "PUBLIC_URL": "wss://bridge.example.org",
    "RTCBRIDGE_NODE_TOKEN": "nk_default_x",
}


def test_every_variable_is_read() -> None:
    known = {*config.variables(), *NODE_VARIABLES.values(), *ADMIN_ENVIRONMENT.values(), *Launch("", "", "", "").env()}
    named = {name for file in FILES for name in re.findall(r"\bRTCBRIDGE_\w*[A-Z]\b", file.read_text())}
    assert len(named) > 10
    assert named <= known


# --- images ---


def instructions(file: Path, name: str) -> list[str]:
    """What stands behind one kind of instruction."""
    return re.findall(rf"^{name} (.*)$", file.read_text(), re.MULTILINE)


@pytest.mark.parametrize("file", CONTAINERFILES, ids=[file.name for file in CONTAINERFILES])
def test_an_image_is_made_of_what_is_there(file: Path) -> None:
    bases = instructions(file, "FROM")
    assert bases == ["${BASE} AS build", "${BASE}"]
    extras = dict(argument.split("=", 1) for argument in instructions(file, "ARG"))["EXTRAS"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    (command,) = instructions(file, "CMD")
    program, *arguments = json.loads(command)
    assert program in project["scripts"]
    if arguments == ["node"]:
        environment = dict(re.findall(r"(RTCBRIDGE_\w+)=(\S+)", file.read_text()))
        check_node(environment)
    else:
        check_command(arguments)


@pytest.mark.parametrize("file", CONTAINERFILES, ids=[file.name for file in CONTAINERFILES])
def test_an_image_runs_as_nobody_in_particular(file: Path) -> None:
    (user,) = instructions(file, "USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)  # Kubernetes' runAsNonRoot wants a number


def test_the_images_get_what_the_package_is_built_from() -> None:
    _, *kept = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    kept = [line.removeprefix("!") for line in kept if line.startswith("!")]
    assert all((ROOT / name).exists() for name in kept)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"pyproject.toml", "constraints.txt", "src", project["readme"], *project["license-files"]} == set(kept)


# --- compose ---


def compose() -> Any:
    """The compose file with its variables filled in: `${NAME:?why}` or `${NAME:-other}`."""
    text = re.sub(r"\$\{(\w+)(?::[?-][^}]*)?\}", lambda match: SETTINGS[match[1]], COMPOSE.read_text())
    assert "$" not in text
    return yaml.safe_load(text)


def bridges() -> dict[str, Any]:
    return {name: service for name, service in compose()["services"].items() if service["image"] == "rtcbridge"}


def test_the_settings_are_those_of_the_example() -> None:
    named = re.findall(r"^(\w+)=", (COMPOSE.parent / ".env.example").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(SETTINGS)


def test_what_a_service_names_is_there() -> None:
    found = compose()
    for name, service in found["services"].items():
        assert set(service.get("depends_on", ())) <= set(found["services"]), name
        assert set(service.get("networks", ())) <= set(found["networks"]), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (COMPOSE.parent / source).exists() if source.startswith(".") else source in found["volumes"], name
        if "build" in service:
            assert (COMPOSE.parent / service["build"]["context"]).resolve() == ROOT
            assert (ROOT / service["build"]["dockerfile"]).exists()
        else:
            assert re.fullmatch(r"docker\.io/\w+/\w+:[\w.-]*\d[\w.-]*", service["image"]), "an image has a version"
        waited = service["depends_on"] if isinstance(service.get("depends_on"), dict) else {}
        assert all("healthcheck" in found["services"][other] for other in waited), name


@pytest.fixture
def bridge(tmp_path: Path) -> Config:
    one, two = bridges().values()
    assert one == two
    return bridge_config((COMPOSE.parent / "bridge.toml").read_text(), one["environment"], tmp_path)


def test_the_bridges_share_a_store_and_an_engine(bridge: Config) -> None:
    services = compose()["services"]
    assert re.fullmatch(r"postgresql://rtcbridge:0a1b2c@postgres/rtcbridge", bridge.store.url)
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"] == "0a1b2c"
    assert bridge.engine.url == "redis://valkey:6379"


def test_the_bridges_can_be_reached_and_believe_the_proxy_alone(bridge: Config) -> None:
    assert bridge.server.host == "0.0.0.0"
    (subnet,) = (network["subnet"] for network in compose()["networks"]["edge"]["ipam"]["config"])
    assert bridge.server.trusted_proxies == (subnet,)
    for name, service in bridges().items():
        assert "ports" not in service, "only the proxy is for everyone"
        assert seconds(service["stop_grace_period"]) >= time_to_stop(bridge), name


def test_the_proxy_knows_the_bridges(bridge: Config) -> None:
    text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
    known = dict(re.findall(r"^    server (\w+) (\S+)$", text, re.MULTILINE))
    assert known == {name: f"{name}:{bridge.server.port}" for name in bridges()}


def test_a_bridge_that_stops_stays_until_the_proxy_has_seen_it(bridge: Config) -> None:
    text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
    ((inter, fall),) = re.findall(r"check inter (\d+)s fall (\d+)", text)
    assert bridge.server.drain_timeout > int(inter) * int(fall) + 1


def test_clients_are_told_of_the_turn_server(bridge: Config) -> None:
    coturn = bridge.ice.coturn
    command = compose()["services"]["coturn"]["command"]
    assert {"--use-auth-secret", f"--static-auth-secret={coturn.secret}"} <= set(command)
    assert f"--external-ip={ip_address(SETTINGS['PUBLIC_IP'])}" in command
    assert coturn.urls == ("turn:192.0.2.10:3478",)  # the port that coturn has by itself


def test_the_node_reaches_the_proxy(bridge: Config) -> None:
    services = compose()["services"]
    node = services["node"]
    check_node(node["environment"])
    assert node["network_mode"] == "host"
    published = [port.split(":")[0] for port in services["haproxy"]["ports"]]
    assert node["environment"]["RTCBRIDGE_URL"].removeprefix("ws://127.0.0.1:") in published
    assert seconds(node["stop_grace_period"]) > seconds(node["environment"]["RTCBRIDGE_NODE_DRAIN"])
    assert bridge.pool("default") is not None


def test_the_networks_addresses_are_private() -> None:
    (subnet,) = (network["subnet"] for network in compose()["networks"]["edge"]["ipam"]["config"])
    assert ip_network(subnet).is_private
