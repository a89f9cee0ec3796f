"""What can be set of a provider: one table under a pool each, such as `[pools.docker]`."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from rtcbridge.config.kinds import (
    Argument,
    DockerUrl,
    Ec2Tag,
    Gpus,
    HttpUrl,
    KubeName,
    MountPath,
    NodeLabel,
    Quantity,
    Resource,
    ResourceName,
    Seconds,
    SshHost,
    Text,
    Toleration,
    Variable,
    Volume,
)


class StaticOptions(Struct, frozen=True, kw_only=True):
    """`[pools.static]`: nothing to set; the nodes dial in on their own."""


class LocalOptions(Struct, frozen=True, kw_only=True):
    """`[pools.local]`: nodes as processes on this machine."""

    model: Argument = "passthrough"
    engine: Literal["", "wrtc", "aiortc"] = ""
    args: tuple[Argument, ...] = ()
    state: Argument = "rtcbridge-nodes"
    stop_grace: Seconds = 10.0


class CommandOptions(Struct, frozen=True, kw_only=True):
    """`[pools.command]`: nodes made by four shell commands; a fifth, which may be left out, lists them."""

    create: Text = ""
    start: Text = ""
    stop: Text = ""
    destroy: Text = ""
    list: Text = ""
    timeout: Seconds = 300.0
    list_interval: Seconds = 30.0


class SshOptions(Struct, frozen=True, kw_only=True):
    """`[pools.ssh]`: nodes as processes on a list of fixed hosts."""

    hosts: tuple[SshHost, ...] = ()
    nodes_per_host: Annotated[int, Meta(ge=1, le=64)] = 1
    command: Text = ""
    key: Text = ""
    known_hosts: Text = ""
    state: Argument = ".rtcbridge"
    stop_grace: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    connect_timeout: Seconds = 10.0
    timeout: Seconds = 30.0
    list_interval: Seconds = 5.0


class DockerOptions(Struct, frozen=True, kw_only=True):
    """`[pools.docker]`: nodes as containers of a Docker or Podman daemon."""

    url: DockerUrl = ""
    image: Text = ""
    pull: Literal["missing", "always", "never"] = "missing"
    command: tuple[Argument, ...] = ()
    env: tuple[Variable, ...] = ()
    gpus: Gpus = ""
    volumes: tuple[Volume, ...] = ()
    network: Text = ""
    shm_size: Annotated[int, Meta(ge=1 << 20, le=1 << 40)] = 1 << 28
    stop_grace: Annotated[int, Meta(ge=1, le=3600)] = 10
    timeout: Seconds = 30.0
    list_interval: Seconds = 5.0


class Ec2Options(Struct, frozen=True, kw_only=True):
    """`[pools.ec2]`: nodes as machines of Amazon EC2."""

    region: Text = ""
    launch_template: Text = ""
    launch_template_version: Argument = "$Default"
    image: Text = ""
    instance_types: tuple[Argument, ...] = ()
    subnets: tuple[Argument, ...] = ()
    zones: tuple[Argument, ...] = ()
    security_groups: tuple[Argument, ...] = ()
    instance_profile: Text = ""
    key_name: Text = ""
    purchase: Literal["on-demand", "spot", "spot-then-on-demand"] = "on-demand"
    tags: tuple[Ec2Tag, ...] = ()
    env_file: Argument = "/etc/rtcbridge.env"
    boot: Argument = "systemctl enable --now rtcbridge-node"
    endpoint: HttpUrl = ""
    timeout: Seconds = 20.0
    list_interval: Seconds = 15.0


class KubernetesOptions(Struct, frozen=True, kw_only=True):
    """`[pools.kubernetes]`: nodes as Pods of a Kubernetes cluster, each with a volume claim."""

    kubeconfig: Text = ""
    context: Text = ""
    namespace: KubeName = ""
    image: Text = ""
    pull: Literal["missing", "always", "never"] = "missing"
    pull_secrets: tuple[KubeName, ...] = ()
    command: tuple[Argument, ...] = ()
    env: tuple[Variable, ...] = ()
    gpus: Annotated[int, Meta(ge=0, le=64)] = 0
    gpu_resource: ResourceName = "nvidia.com/gpu"
    requests: tuple[Resource, ...] = ()
    limits: tuple[Resource, ...] = ()
    node_selector: tuple[NodeLabel, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    service_account: KubeName = ""
    network: Literal["", "host"] = ""
    volume_size: Quantity = "10Gi"
    storage_class: KubeName = ""
    mount: MountPath = "/data"
    pod_template: Text = ""
    stop_grace: Annotated[int, Meta(ge=1, le=3600)] = 30
    timeout: Seconds = 10.0
    list_interval: Seconds = 15.0
