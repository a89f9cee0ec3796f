"""The chart: rendered by Helm itself, its objects made of fields that Kubernetes has, its configuration one of ours."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from deploy.files import DEPLOY, ROOT, bridge_config, read_yaml, time_to_stop
from docs.pages import blocks

CHART = DEPLOY / "helm" / "rtcbridge"
TEMPLATES = sorted((CHART / "templates").iterdir())
SECRETS = {"RTCBRIDGE_STORE__URL": "postgresql://a:b@c/d", "RTCBRIDGE_ENGINE__URL": "redis://:p@valkey:6379"}
ALL = {
    "secrets": {"env": SECRETS},
    "image": {"pullSecrets": ["registry"]},
    "autoscaling": {"enabled": True},
    "nodesNamespace": "video",
    "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls", "annotations": {"a": "b"}},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
}
HELM = shutil.which("helm") or shutil.which("helm", path=str(Path(sys.executable).parent))
needs_helm = pytest.mark.skipif(HELM is None, reason="HELM TESTS SKIPPED: tools/helm.sh could not get it")
Objects = dict[tuple[str, str], dict[str, Any]]


def helm(*arguments: str, values: Mapping[str, object], folder: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "values.yaml"
    file.write_text(json.dumps(values))
    assert HELM is not None
    command = [HELM, *arguments, str(CHART), "--values", str(file)]
    environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def render(values: Mapping[str, object], folder: Path) -> Objects:
    """The objects by kind and name."""
    done = helm("template", "video", "--namespace", "bridges", values=values, folder=folder)
    assert done.returncode == 0, done.stderr
    found = [each for each in yaml.safe_load_all(done.stdout) if each]
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


# --- without Helm ---


def leaves(table: Mapping[str, Any], before: str = "") -> set[str]:
    """The values that a template may name; a table that a user fills in is one."""
    found = set()
    for key, value in table.items():
        path = f"{before}{key}"
        open_ended = path in {"secrets.env", "resources", "ingress.annotations", "serviceMonitor.labels"}
        found |= leaves(value, f"{path}.") if isinstance(value, dict) and not open_ended else {path}
    return found


def test_every_value_is_used_and_every_used_one_is_there() -> None:
    named = {
        name.rstrip(".") for template in TEMPLATES for name in re.findall(r"\.Values\.([\w.]+)", template.read_text())
    }
    assert named == leaves(read_yaml(CHART / "values.yaml"))


def test_the_versions_are_the_packages() -> None:
    chart = read_yaml(CHART / "Chart.yaml")
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert chart["appVersion"] == version[1]


# --- by Helm ---


@needs_helm
@pytest.mark.parametrize("values", [{}, ALL], ids=["defaults", "all"])
def test_lint(values: dict[str, object], tmp_path: Path) -> None:
    done = helm("lint", "--strict", values=values, folder=tmp_path)
    assert done.returncode == 0, done.stdout


@needs_helm
def test_what_is_rendered_is_what_kubernetes_has(tmp_path: Path) -> None:
    found = render(ALL, tmp_path)
    assert {kind for kind, _ in found} == {
        "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Ingress", "PodDisruptionBudget", "Role", "RoleBinding",
        "Secret", "Service", "ServiceAccount", "ServiceMonitor",
    }  # fmt: skip
    for (kind, name), each in found.items():
        if kind != "ServiceMonitor":  # the Prometheus operator's
            check_fields(each, model(each), f"{kind} {name}")


def model(each: Mapping[str, Any]) -> type:
    """The class of an object, made by lightkube from Kubernetes' own description."""
    group, _, version = each["apiVersion"].rpartition("/")
    module = import_module(f"lightkube.models.{group.split('.')[0] or 'core'}_{version}")
    found: type = getattr(module, each["kind"])
    return found


def check_fields(value: Any, kind: Any, where: str) -> None:
    """Make sure that an object has no field that its class has not, and the type of each."""
    options = [option for option in get_args(kind) if option is not type(None)] or [kind]
    (kind, *_) = options
    if isinstance(value, list):
        for item in value:
            check_fields(item, get_args(kind)[0], f"{where}[]")
    elif is_dataclass(kind):
        assert isinstance(value, dict), where
        hints = get_type_hints(kind)
        names = {each.metadata.get("json", each.name): hints[each.name] for each in fields(kind)}
        assert set(value) <= set(names), where
        for key, item in value.items():
            check_fields(item, names[key], f"{where}.{key}")
    elif isinstance(kind, type):
        expected = {float: (int, float), bool: bool, int: int, str: (str, int)}.get(kind, object)  # 80 or "http"
        assert isinstance(value, expected), where


@needs_helm
@pytest.mark.parametrize("values", [{"secrets": {"env": SECRETS}}, ALL], ids=["least", "all"])
def test_the_configuration_is_one(values: dict[str, object], tmp_path: Path) -> None:
    found = render(values, tmp_path)
    pod = found["Deployment", "video"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    (source,) = container["envFrom"]
    environment |= found["Secret", source["secretRef"]["name"]]["stringData"]
    loaded = bridge_config(found["ConfigMap", "video"]["data"]["bridge.toml"], environment, tmp_path)
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports["http"] == loaded.server.port
    assert loaded.server.metrics == f"0.0.0.0:{ports['metrics']}"
    assert loaded.engine.url.startswith("redis://")
    assert pod["terminationGracePeriodSeconds"] >= time_to_stop(loaded)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports


@needs_helm
def test_services_find_the_pods(tmp_path: Path) -> None:
    found = render(ALL, tmp_path)
    template = found["Deployment", "video"]["spec"]["template"]
    labels, ports = (
        template["metadata"]["labels"],
        {each["name"] for each in template["spec"]["containers"][0]["ports"]},
    )
    for (kind, name), each in found.items():
        if kind == "Service":
            assert each["spec"]["selector"].items() <= labels.items(), name
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports, name
    wanted = found["ServiceMonitor", "video"]["spec"]["selector"]["matchLabels"].items()
    monitored = [
        name
        for (kind, name), each in found.items()
        if kind == "Service" and wanted <= each["metadata"]["labels"].items()
    ]
    assert monitored == ["video-metrics"]
    for kind in ("PodDisruptionBudget", "Deployment"):
        assert found[kind, "video"]["spec"]["selector"]["matchLabels"].items() <= labels.items()


@needs_helm
def test_autoscaling_alone_decides_how_many(tmp_path: Path) -> None:
    assert "replicas" not in render(ALL, tmp_path)["Deployment", "video"]["spec"]
    least = render({"secrets": {"existing": "mine"}}, tmp_path)
    assert least["Deployment", "video"]["spec"]["replicas"] == 2
    assert {kind for kind, _ in least} == {"ConfigMap", "Deployment", "PodDisruptionBudget", "Service"}


@needs_helm
def test_the_permissions_are_those_that_the_provider_needs(tmp_path: Path) -> None:
    documented = next(
        each
        for block in blocks("yaml", pages=[ROOT / "docs" / "how-to" / "provider-kubernetes.md"])
        for each in yaml.safe_load_all(block.text)
        if each.get("kind") == "Role"
    )
    role = render(ALL, tmp_path)["Role", "video"]
    assert role["rules"] == documented["rules"]
    assert role["metadata"]["namespace"] == "video"


@needs_helm
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "secrets.env.RTCBRIDGE_STORE__URL is missing"),
        ({"secrets": {"env": {"RTCBRIDGE_STORE__URL": "x"}}}, "secrets.env.RTCBRIDGE_ENGINE__URL is missing"),
        ({"secrets": {"existing": "mine"}, "replica": 3}, "additional properties 'replica' not allowed"),
        ({"secrets": {"existing": "mine"}, "publicUrl": "bridge.example.org"}, "publicUrl"),
    ],
)
def test_mistakes_are_told(values: dict[str, object], said: str, tmp_path: Path) -> None:
    done = helm("template", "video", values=values, folder=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
