"""What Kubernetes is asked for a node: names, labels, volume claim, secret and Pod. Nothing is sent from here."""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from lightkube.models.core_v1 import PersistentVolumeClaimSpec, VolumeResourceRequirements
from lightkube.models.meta_v1 import ObjectMeta, OwnerReference
from lightkube.resources.core_v1 import PersistentVolumeClaim, Pod, Secret

from rtcbridge.config import ConfigError, KubernetesOptions
from rtcbridge.ports import Launch, ProviderError

NODE, POOL = "rtcbridge/node", "rtcbridge/pool"
CONTAINER = "node"
_MANAGED = {"app.kubernetes.io/managed-by": "rtcbridge"}
_VOLUME = "rtcbridge-volume"
_LONGEST = 63  # characters of a DNS label (RFC 1123), and of a label's value
_DIGEST = 10
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?\Z")
_LARGEST_TEMPLATE = 1 << 20  # bytes
_PULL = {"missing": "IfNotPresent", "always": "Always", "never": "Never"}


def object_name(node: str) -> str:
    """Return the name of a node's Pod, claim and secret: a DNS label that is the same each time.

    An id that is none, or that is too long, gets the digest of the whole id at its end, so that no two nodes share
    a name.
    """
    plain = f"rtcbridge-{node}"
    return (
        plain if len(plain) <= _LONGEST and _DNS_LABEL.match(plain) else _digested(plain.lower(), r"[^a-z0-9]+", node)
    )


def label_value(text: str) -> str:
    """Return a text as the value of a label, which has at most 63 letters, digits, '_', '.' and '-'."""
    return text if len(text) <= _LONGEST and _LABEL_VALUE.match(text) else _digested(text, r"[^A-Za-z0-9]+", text)


def selector(pool: str) -> dict[str, str]:
    """Return the labels of all that belongs to a pool."""
    return {**_MANAGED, POOL: label_value(pool)}


def claim(options: KubernetesOptions, launch: Launch) -> PersistentVolumeClaim:
    """Return the volume claim of a node. It is there from the node's creation to its destruction."""
    return PersistentVolumeClaim(
        metadata=_metadata(launch),
        spec=PersistentVolumeClaimSpec(
            accessModes=["ReadWriteOnce"],
            resources=VolumeResourceRequirements(requests={"storage": options.volume_size}),
            storageClassName=options.storage_class or None,
        ),
    )


def secret(options: KubernetesOptions, launch: Launch, owner: ObjectMeta, own: Mapping[str, str]) -> Secret:
    """Return the secret with the variables of a node's environment. It goes with the claim, its owner.

    Args:
        options: `[pools.kubernetes]`.
        launch: the node.
        owner: the metadata of its claim, as Kubernetes has them.
        own: the bridge's environment, for variables of `env` without a value.

    Raises:
        ProviderError: such a variable is not in it.
    """
    values = {**dict(_variables(options.env, own)), **launch.env()}
    metadata = _metadata(launch)
    metadata.ownerReferences = [
        OwnerReference(apiVersion="v1", kind="PersistentVolumeClaim", name=owner.name or "", uid=owner.uid or "")
    ]
    data = {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}
    return Secret(metadata=metadata, type="Opaque", data=data)


def pod(options: KubernetesOptions, launch: Launch, template: Mapping[str, Any]) -> Pod:
    """Return the Pod of a node: the template, and the options on it.

    Raises:
        ConfigError: the template is no Pod, or has no image where the options have none.
    """
    wanted = msgspec.convert(template, dict[str, Any]) if template else {}
    wanted = msgspec.json.decode(msgspec.json.encode(wanted))  # a copy
    meta, spec = _table(wanted, "metadata"), _table(wanted, "spec")
    ours = _metadata(launch)
    for key, values in (("labels", ours.labels), ("annotations", ours.annotations)):
        meta[key] = {**_table(meta, key), **(values or {})}
    meta["name"] = ours.name
    meta.pop("namespace", None)
    _fill_container(options, ours.name or "", _container(spec))
    _fill_spec(options, ours.name or "", spec)
    return _checked(wanted)


def read_template(file: str) -> Mapping[str, Any]:
    """Read the YAML file of a Pod; nothing for the empty name.

    Raises:
        ConfigError: it cannot be read, is too long, or is no YAML table.
    """
    if not file:
        return {}
    try:
        with Path(file).open("rb") as stream:
            text = stream.read(_LARGEST_TEMPLATE + 1)
        found = yaml.safe_load(text) if len(text) <= _LARGEST_TEMPLATE else None
    except OSError as error:
        raise ConfigError(f"kubernetes.pod_template: {file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"kubernetes.pod_template: {file}: not valid YAML: {_line(error)}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"kubernetes.pod_template: expected a Pod in YAML of at most 1 MiB, and {file} is none")
    return found


def secrets_of(options: KubernetesOptions, own: Mapping[str, str]) -> list[str]:
    """Return the values of `env` that an error must not show."""
    return [variable.partition("=")[2] or own.get(variable, "") for variable in options.env]


def _digested(text: str, other: str, whole: str) -> str:
    digest = hashlib.blake2b(whole.encode(), digest_size=_DIGEST // 2).hexdigest()
    return f"{re.sub(other, '-', text)[: _LONGEST - _DIGEST - 1].strip('-') or 'x'}-{digest}"


def _metadata(launch: Launch) -> ObjectMeta:
    # A label's value may be too short for an id, an annotation is not.
    return ObjectMeta(
        name=object_name(launch.node),
        labels={**selector(launch.pool), NODE: label_value(launch.node)},
        annotations={NODE: launch.node, POOL: launch.pool},
    )


def _variables(env: Iterable[str], own: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    for variable in env:
        name, given, value = variable.partition("=")
        if not given and name not in own:
            raise ProviderError(f"kubernetes.env: the bridge's environment has no {name}")
        yield name, value if given else own[name]


def _table(parent: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the table below a key of the template; make it if it is missing. Raises ConfigError."""
    found = parent.get(key)
    if found is None:
        found = parent[key] = {}
    if not isinstance(found, dict):
        raise ConfigError(f"kubernetes.pod_template: {key}: expected a table")
    return found


def _items(parent: dict[str, Any], key: str) -> list[Any]:
    found = parent.get(key)
    if found is None:
        found = parent[key] = []
    if not isinstance(found, list):
        raise ConfigError(f"kubernetes.pod_template: {key}: expected a list")
    return found


def _container(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the container that is the node: the one of that name, else the first, else a new one."""
    containers = _items(spec, "containers")
    if not all(isinstance(each, dict) for each in containers):
        raise ConfigError("kubernetes.pod_template: containers: expected a list of tables")
    found: dict[str, Any] | None = next((each for each in containers if each.get("name") == CONTAINER), None)
    if found is None and containers:
        found = containers[0]
    if found is None:
        found = {}
        containers.append(found)
    found.setdefault("name", CONTAINER)
    return found


def _fill_container(options: KubernetesOptions, name: str, container: dict[str, Any]) -> None:
    if options.image:
        container["image"] = options.image
    if not container.get("image"):
        raise ConfigError("kubernetes.image: expected the name of an image, since the pod_template has none")
    container.setdefault("imagePullPolicy", _PULL[options.pull])
    if options.command:
        container["args"] = list(options.command)
    _items(container, "envFrom").append({"secretRef": {"name": name}})
    _items(container, "volumeMounts").append({"name": _VOLUME, "mountPath": options.mount})
    resources = _table(container, "resources")
    gpus = {options.gpu_resource: str(options.gpus)} if options.gpus else {}
    for key, given in (("requests", _pairs(options.requests)), ("limits", {**_pairs(options.limits), **gpus})):
        # YAML has numbers where the API's own type is a text, and takes either.
        there = {name: str(value) for name, value in _table(resources, key).items()}
        resources[key] = {**there, **given}


def _fill_spec(options: KubernetesOptions, name: str, spec: dict[str, Any]) -> None:
    _items(spec, "volumes").append({"name": _VOLUME, "persistentVolumeClaim": {"claimName": name}})
    # A crash is made good at once, on the same machine; after a drain the agent ends for good.
    spec["restartPolicy"] = "OnFailure"
    spec["terminationGracePeriodSeconds"] = options.stop_grace
    spec.setdefault("enableServiceLinks", False)
    if options.service_account:
        spec["serviceAccountName"] = options.service_account
    if not spec.get("serviceAccountName"):
        spec.setdefault("automountServiceAccountToken", False)
    if options.network:
        spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if options.node_selector:
        spec["nodeSelector"] = {**_table(spec, "nodeSelector"), **_pairs(options.node_selector)}
    if options.tolerations:
        _items(spec, "tolerations").extend(_toleration(text) for text in options.tolerations)
    if options.pull_secrets:
        _items(spec, "imagePullSecrets").extend({"name": each} for each in options.pull_secrets)


def _toleration(text: str) -> dict[str, str]:
    """Return what `KEY[=VALUE][:EFFECT]` stands for."""
    rest, _, effect = text.partition(":")
    key, equal, value = rest.partition("=")
    wanted = {"key": key, "operator": "Equal", "value": value} if equal else {"key": key, "operator": "Exists"}
    return {**wanted, "effect": effect} if effect else wanted


def _pairs(texts: Iterable[str]) -> dict[str, str]:
    return {key: value for key, _, value in (text.partition("=") for text in texts)}


def _checked(wanted: dict[str, Any]) -> Pod:
    """Make the Pod, and find what the API does not know and would drop without a word. Raises ConfigError."""
    if (wanted.setdefault("apiVersion", "v1"), wanted.setdefault("kind", "Pod")) != ("v1", "Pod"):
        raise ConfigError("kubernetes.pod_template: expected apiVersion v1 and kind Pod")
    try:
        made = msgspec.convert(wanted, Pod)
    except msgspec.ValidationError as error:
        raise ConfigError(f"kubernetes.pod_template: {_line(error)}") from None
    if unknown := _unknown(wanted, made.to_dict(), ""):
        raise ConfigError(f"kubernetes.pod_template: {unknown}: no such field of a Pod")
    return made


def _unknown(given: Any, known: Any, path: str) -> str:
    """Return the path of a field in `given` that is not in `known`, or nothing."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            here = f"{path}.{key}" if path else str(key)
            if value is None:
                continue
            if found := here if key not in known else _unknown(value, known[key], here):
                return found
    if isinstance(given, list) and isinstance(known, list):
        for index, (one, other) in enumerate(zip(given, known, strict=True)):
            if found := _unknown(one, other, f"{path}[{index}]"):
                return found
    return ""


def _line(text: object) -> str:
    return " ".join(str(text).split())
