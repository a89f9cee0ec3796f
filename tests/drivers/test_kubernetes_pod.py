"""What the kubernetes provider asks for, and what it reads in the answers: nothing here asks anybody."""

import sys
from datetime import UTC, datetime

import pytest
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import PersistentVolumeClaim, Pod

from rtcbridge import config
from rtcbridge.config import ConfigError, KubernetesOptions
from rtcbridge.config import Pool as PoolConfig
from rtcbridge.drivers.providers import make_provider
from rtcbridge.drivers.providers.kubernetes_pod import label_value, object_name, pod, read_template, secret
from rtcbridge.drivers.providers.kubernetes_state import disruption, machines, trouble
from rtcbridge.ports import Launch, Machine, ProviderError

NODE = Launch("gpu-1a2b3c-00000001", "gpu", "wss://bridge.example/node", "nk_secret")
NOW = datetime.now(UTC)


def spec(template=None, **options) -> dict:
    return pod(KubernetesOptions(**{"image": "i"} | options), NODE, template or {}).to_dict()["spec"]


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("gpu-1a2b3c-00000001", "rtcbridge-gpu-1a2b3c-00000001"),
        ("GPU-1", "rtcbridge-gpu-1-07fb2cc4ac"),
        ("gpu_a.b-1", "rtcbridge-gpu-a-b-1-"),
        ("x" * 79, "rtcbridge-xxxxxxxxxxxx"),
        ("a-", "rtcbridge-a-"),
    ],
)
def test_a_name_is_a_dns_label_and_the_same_each_time(node, name):
    made = object_name(node)
    assert made == object_name(node)
    assert len(made) <= 63
    assert made.islower()
    assert made.replace("-", "").isalnum()
    assert not made.endswith("-")
    assert made.startswith(name) if name[-1] == "-" or len(node) > 60 else len(made) >= len(name)


def test_no_two_nodes_share_a_name():
    nodes = ["a.b", "a-b", "a_b", "A-b", "a--b", "a.b-", "x" * 70, "x" * 71, "X" * 70]
    assert len({object_name(node) for node in nodes}) == len(nodes)
    assert len({label_value(node) for node in nodes}) == len(nodes)
    assert all(len(label_value(node)) <= 63 for node in nodes)


def test_the_options_reach_the_pod():
    made = spec(
        command=("rtcbridge", "node", "app.py:invert"),
        pull="always",
        pull_secrets=("registry",),
        gpus=2,
        gpu_resource="amd.com/gpu",
        requests=("cpu=2", "memory=8Gi"),
        limits=("memory=16Gi",),
        node_selector=("example.org/gpu=l4",),
        tolerations=("amd.com/gpu", "dedicated=video:NoSchedule", "spot:NoExecute"),
        service_account="node",
        network="host",
        mount="/models",
        stop_grace=7,
    )
    (container,) = made["containers"]
    assert container == {
        "name": "node",
        "image": "i",
        "imagePullPolicy": "Always",
        "args": ["rtcbridge", "node", "app.py:invert"],
        "envFrom": [{"secretRef": {"name": "rtcbridge-gpu-1a2b3c-00000001"}}],
        "resources": {
            "requests": {"cpu": "2", "memory": "8Gi"},
            "limits": {"memory": "16Gi", "amd.com/gpu": "2"},
        },
        "volumeMounts": [{"name": "rtcbridge-volume", "mountPath": "/models"}],
    }
    del made["containers"]
    assert made == {
        "volumes": [
            {"name": "rtcbridge-volume", "persistentVolumeClaim": {"claimName": "rtcbridge-gpu-1a2b3c-00000001"}}
        ],
        "restartPolicy": "OnFailure",
        "terminationGracePeriodSeconds": 7,
        "enableServiceLinks": False,
        "serviceAccountName": "node",
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "nodeSelector": {"example.org/gpu": "l4"},
        "tolerations": [
            {"key": "amd.com/gpu", "operator": "Exists"},
            {"key": "dedicated", "operator": "Equal", "value": "video", "effect": "NoSchedule"},
            {"key": "spot", "operator": "Exists", "effect": "NoExecute"},
        ],
        "imagePullSecrets": [{"name": "registry"}],
    }


def test_the_token_is_in_the_secret_alone():
    made = secret(KubernetesOptions(env=("HF_TOKEN",)), NODE, ObjectMeta(name="c", uid="u"), {"HF_TOKEN": "hf_1"})
    assert set(made.data) == {*NODE.env(), "HF_TOKEN"}
    assert "nk_secret" not in str(pod(KubernetesOptions(image="i", env=("HF_TOKEN",)), NODE, {}).to_dict())
    with pytest.raises(ProviderError, match=r"^kubernetes\.env: the bridge's environment has no HF_TOKEN$"):
        secret(KubernetesOptions(env=("HF_TOKEN",)), NODE, ObjectMeta(name="c", uid="u"), {})


TEMPLATE = """
apiVersion: v1
kind: Pod
metadata:
  name: another
  namespace: another
  labels: {team: video, rtcbridge/pool: wrong}
spec:
  priorityClassName: low
  restartPolicy: Always
  nodeSelector: {zone: a}
  tolerations: [{operator: Exists}]
  containers:
  - {name: sidecar, image: s}
  - name: node
    image: other
    workingDir: /app
    resources: {limits: {cpu: 2}}
    volumeMounts: [{name: shm, mountPath: /dev/shm}]
    securityContext: {runAsNonRoot: true, capabilities: }
  volumes: [{name: shm, emptyDir: {medium: Memory}}]
"""


def template(tmp_path, text=TEMPLATE):
    file = tmp_path / "pod.yaml"
    file.write_text(text)
    return read_template(str(file))


def test_a_template_is_the_ground_that_the_options_are_put_on(tmp_path):
    options = KubernetesOptions(image="i", node_selector=("gpu=l4",), tolerations=("x",), gpus=1)
    given = template(tmp_path)
    made = pod(options, NODE, given).to_dict()
    assert made == pod(options, NODE, given).to_dict(), "the template is not changed"
    meta, spec = made["metadata"], made["spec"]
    assert meta["name"] == "rtcbridge-gpu-1a2b3c-00000001"
    assert "namespace" not in meta
    assert meta["labels"]["team"] == "video"
    assert meta["labels"]["rtcbridge/pool"] == "gpu"
    assert (spec["priorityClassName"], spec["restartPolicy"]) == ("low", "OnFailure")
    assert spec["nodeSelector"] == {"zone": "a", "gpu": "l4"}
    assert spec["tolerations"] == [{"operator": "Exists"}, {"key": "x", "operator": "Exists"}]
    assert [volume["name"] for volume in spec["volumes"]] == ["shm", "rtcbridge-volume"]
    sidecar, node = spec["containers"]
    assert sidecar == {"name": "sidecar", "image": "s"}
    assert (node["image"], node["workingDir"]) == ("i", "/app")
    assert node["resources"]["limits"] == {"cpu": "2", "nvidia.com/gpu": "1"}
    assert [mount["name"] for mount in node["volumeMounts"]] == ["shm", "rtcbridge-volume"]


def test_an_image_of_the_template_serves_as_well(tmp_path):
    assert pod(KubernetesOptions(), NODE, template(tmp_path)).spec.containers[1].image == "other"
    alone = template(tmp_path, "spec: {containers: [{image: one}]}")
    (container,) = pod(KubernetesOptions(), NODE, alone).spec.containers
    assert (container.name, container.image) == ("node", "one")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("spec: [", "not valid YAML: while parsing"),
        ("- a", "expected a Pod in YAML of at most 1 MiB, and "),
        ("spec: 1", "spec: expected a table"),
        ("spec: {containers: {}}", "containers: expected a list"),
        ("spec: {containers: [1]}", "containers: expected a list of tables"),
        ("spec: {tolerationz: []}", "spec.tolerationz: no such field of a Pod"),
        ("spec: {containers: [{ports: x}]}", r"Expected `array | null`, got `str` - at `$.spec.containers[0].ports`"),
        ("kind: Deployment", "expected apiVersion v1 and kind Pod"),
        ("x" * (1 << 20) + "y", "expected a Pod in YAML of at most 1 MiB, and "),
    ],
)
def test_a_template_that_is_none_is_told_in_one_line(tmp_path, text, expected):
    with pytest.raises(ConfigError) as caught:
        pod(KubernetesOptions(image="i"), NODE, template(tmp_path, text))
    assert str(caught.value).startswith("kubernetes.pod_template: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_template_is_relative_to_the_configuration_and_read_at_the_start(tmp_path):
    (tmp_path / "pod.yaml").write_text("spec: {tolerationz: []}")
    file = tmp_path / "bridge.toml"
    file.write_text(
        '[[pools]]\nname = "gpu"\nprovider = "kubernetes"\n[pools.kubernetes]\nimage = "i"\npod_template = "pod.yaml"\n'
    )
    (pool,) = config.load(file, {}).pools
    with pytest.raises(
        ConfigError, match=r'^\[\[pools\]\] "gpu": kubernetes\.pod_template: spec\.tolerationz: no such'
    ):
        make_provider(pool)
    (tmp_path / "pod.yaml").write_text("spec: {containers: []}")
    assert make_provider(pool).list_interval == 15.0


def test_a_missing_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("rtcbridge.drivers.providers.kubernetes")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightkube.models.core_v1", None)
    with pytest.raises(
        ConfigError, match=r"""^\[\[pools\]\] "gpu": provider kubernetes: .*'rtcbridge\[kubernetes\]'$"""
    ):
        make_provider(PoolConfig(name="gpu", provider="kubernetes"))


# --- what the answers say ---


def seen(phase="Running", *, ending=False, node="n", **status) -> Pod:
    meta = {"name": f"rtcbridge-{node}", "annotations": {"rtcbridge/node": node}}
    if ending:
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return Pod.from_dict({"metadata": meta, "status": {"phase": phase, **status}})


def claimed(node="n", *, ending=False) -> PersistentVolumeClaim:
    when = NOW if ending else None
    return PersistentVolumeClaim(metadata=ObjectMeta(annotations={"rtcbridge/node": node}, deletionTimestamp=when))


@pytest.mark.parametrize(
    ("pods", "claims", "expected"),
    [
        ([], [], {}),
        ([], [claimed()], {"n": Machine.STOPPED}),
        ([], [claimed(ending=True)], {}),
        ([seen("Pending")], [claimed()], {"n": Machine.COMING}),
        ([seen("Running")], [claimed()], {"n": Machine.RUNNING}),
        ([seen("Unknown")], [claimed()], {"n": Machine.RUNNING}),
        ([seen("Failed")], [claimed()], {"n": Machine.STOPPED}),
        ([seen("Succeeded")], [claimed()], {"n": Machine.STOPPED}),
        ([seen("Running", ending=True)], [claimed()], {"n": Machine.STOPPING}),
        ([seen("Running", ending=True)], [claimed(ending=True)], {}),
        ([seen("Running")], [claimed(ending=True)], {"n": Machine.RUNNING}),
        ([seen("Failed")], [claimed(ending=True)], {"n": Machine.STOPPED}),
        ([seen("Running", ending=True), seen("Pending")], [claimed()], {"n": Machine.COMING}),
        (
            [seen(node="a"), seen(node="b", ending=True)],
            [claimed("a"), claimed("b")],
            {"a": Machine.RUNNING, "b": Machine.STOPPING},
        ),
        ([Pod(metadata=ObjectMeta(name="x"))], [PersistentVolumeClaim()], {}),
    ],
)
def test_how_nodes_stand(pods, claims, expected):
    assert machines(pods, claims) == expected


def waiting(reason, message=None) -> dict:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"name": "node", "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": state}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (seen(), ""),
        (seen("Pending"), ""),
        (seen("Pending", containerStatuses=[waiting("ContainerCreating")]), ""),
        (
            seen("Pending", containerStatuses=[waiting("ImagePullBackOff", 'Back-off pulling\n image "i"')]),
            'ImagePullBackOff: Back-off pulling image "i"',
        ),
        (seen("Pending", initContainerStatuses=[waiting("ErrImagePull")]), "ErrImagePull"),
        (seen("Failed", reason="Evicted", message="x" * 999), f"Evicted: {'x' * 291}…"),
        (seen("Failed"), "Failed"),
        (seen("Failed", ending=True), ""),
        (Pod(), ""),
    ],
)
def test_what_holds_a_pod_up(pod, expected):
    assert trouble(pod) == expected
    assert disruption(pod) == ""


def test_a_disruption_that_has_not_come_is_none():
    condition = {"type": "DisruptionTarget", "status": "False", "reason": "PreemptionByScheduler", "message": "later"}
    assert disruption(seen(conditions=[condition])) == ""
    assert disruption(seen(conditions=[condition | {"status": "True"}])) == "PreemptionByScheduler: later"
