"""The kubernetes provider when the API refuses, is slow, is not there, or loses an answer; and its kubeconfig."""

import asyncio

import pytest
from lightkube import KubeConfig

from drivers.kube_api import NAMESPACE, Fault, KubeApi, RefusalError
from drivers.kube_cluster import NAME, kubeconfig, pods_in, refusal
from rtcbridge.ports import ProviderError
from rtcbridge.testing.provider_contract import launch, runs, until

pytestmark = pytest.mark.slow


@pytest.fixture
async def machines(tmp_path, monkeypatch):
    async with pods_in(tmp_path, monkeypatch) as pods:
        yield pods


@pytest.fixture
def api(machines) -> KubeApi:
    return machines.api


async def test_a_quota_is_told_and_what_is_there_needs_none(machines, api):
    api.quota["pods"] = 1
    provider = machines.make()
    await provider.create(launch())
    await provider.create(launch())
    refused = 'create: pods "rtcbridge-node-2" is forbidden: exceeded quota: team, requested: count/pods=1, used: '
    assert (await refusal(provider.create, node="node-2")).startswith(refused)
    await provider.destroy(launch("node-2"))
    assert await runs(provider) == {"node-1": True}


async def test_an_admission_s_refusal_is_told_without_secrets(machines, api):
    def admit(plural, item):
        if plural == "pods":
            message = f"admission webhook denied: {launch().token}, hush-hush-1:\n " + "x" * 1000
            raise RefusalError(403, "Forbidden", message)

    api.admission.append(admit)
    text = await refusal(machines.make(env=("A=hush-hush-1",)).create)
    assert text.startswith("create: admission webhook denied: …, …: xxx")


async def test_what_the_api_finds_invalid_is_told(machines):
    template = machines.folder / "template.yaml"
    template.write_text("spec:\n containers:\n - volumeMounts: [{name: none, mountPath: /x}]\n")
    text = await refusal(machines.make(pod_template=str(template)).create)
    assert text == f'create: Pod "{NAME}" is invalid: spec.containers[0].volumeMounts[0].name: Not found: "none"'


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        ("persistentvolumeclaims", RefusalError(429, "TooManyRequests", "slow down", retry_after="0")),
        ("pods", RefusalError(500, "InternalError", "etcdserver: request timed out")),
        ("secrets", RefusalError(503, "ServiceUnavailable", "apiserver is shutting down")),
        ("pods", RefusalError(409, "Conflict", 'Operation cannot be fulfilled on resourcequotas "team"')),
    ],
)
async def test_what_passes_is_tried_again(machines, api, kind, refused):
    api.faults = [Fault("POST", kind, refused, times=3)]
    await machines.make().create(launch())
    assert api.count(f"POST {kind}") == 4
    assert len(api.objects) == 3


async def test_what_does_not_pass_is_told(machines, api):
    api.faults = [Fault("POST", "pods", RefusalError(500, "InternalError", "etcdserver: no leader"), times=99)]
    assert await refusal(machines.make().create) == "create: etcdserver: no leader"
    assert api.count("POST pods") == 4


async def test_a_server_that_asks_for_patience_gets_it_within_bounds(machines, api, monkeypatch):
    pauses = []
    real = asyncio.sleep

    async def sleep(seconds):
        pauses.append(seconds)
        await real(0)

    api.faults = [Fault("GET", "pods", RefusalError(429, "TooManyRequests", "slow down", retry_after="7"))]
    provider = machines.make()
    monkeypatch.setattr("rtcbridge.drivers.providers.kubernetes_api.asyncio.sleep", sleep)
    assert await runs(provider) == {}
    assert 7.0 in pauses
    api.faults = [Fault("GET", "secrets", RefusalError(429, "TooManyRequests", "slow down", retry_after="3600"))]
    assert await refusal(provider.destroy) == "destroy: slow down"
    assert api.count("GET secrets") == 1


@pytest.mark.parametrize("drop", ["before", "after"])
@pytest.mark.parametrize("kind", ["persistentvolumeclaims", "secrets", "pods"])
async def test_a_lost_reply_makes_nothing_twice(machines, api, kind, drop):
    api.faults = [Fault("POST", kind, drop=drop)]
    provider = machines.make()
    await provider.create(launch())
    await until(machines.running)
    assert len(api.objects) == 3
    assert machines.boots() == 1
    api.faults = [Fault("DELETE", kind, drop=drop)]
    await provider.destroy(launch())
    await until(lambda: not api.objects)


async def test_all_replies_lost_and_the_bridge_as_well(machines, api):
    api.faults = [Fault("POST", "pods", drop="after", times=1), Fault("GET", "pods", drop="before", times=99)]
    assert (await refusal(machines.make().create)).startswith("create: the API server cannot be reached: ")
    api.faults.clear()
    again = machines.make()
    assert await runs(again) in ({"node-1": True}, {"node-1": False}), "it is swept when it shows"
    await again.create(launch())
    await until(machines.running)
    assert machines.boots() == 1


async def test_an_answer_that_does_not_come_is_waited_for_within_bounds(machines, api):
    api.faults = [Fault("GET", "pods", drop="silent", times=99)]
    provider = machines.make(timeout=0.05)
    async with asyncio.timeout(10):
        assert await refusal(provider.stop) == "stop: the API server does not answer within 0.05 s"
        assert await refusal(provider.list) == "list: the API server does not answer within 0.05 s"
    assert provider.list_interval == 15.0


async def test_an_answer_that_is_none(machines, api):
    api.faults = [Fault("GET", "pods", body="<html>Bad Gateway</html>", times=99)]
    assert await refusal(machines.make().stop) == "stop: the API server answers 502 Bad Gateway"


async def test_an_address_where_nobody_listens(machines):
    file = kubeconfig(machines.folder / "dead", "http://127.0.0.1:1")
    text = await refusal(machines.make(kubeconfig=str(file)).create)
    assert text.startswith("create: the API server cannot be reached: ")


async def test_a_token_that_is_not_accepted(machines):
    file = kubeconfig(machines.folder / "other", machines.url, token="another token")
    assert await refusal(machines.make(kubeconfig=str(file)).list) == "list: Unauthorized"


async def test_a_namespace_that_is_not_there(machines):
    assert await refusal(machines.make(namespace="none").create) == "create: namespaces not found"


@pytest.mark.parametrize(
    ("content", "context", "expected"),
    [
        (None, "", "none: No such file or directory|none not found"),
        ("{", "", "kubeconfig: .+"),
        ("clusters: []\ncontexts: []\n", "", "kubeconfig: No current context set and no default provided"),
        ("x: 1\n", "", "kubeconfig: there is no 'clusters' in it"),
        ("good", "other", "kubeconfig: Context 'other' not found"),
    ],
)
async def test_a_kubeconfig_that_is_not_usable(machines, content, context, expected):
    file = machines.folder / "none"
    if content == "good":
        file = machines.kubeconfig
    elif content is not None:
        file.write_text(content)
    with pytest.raises(ProviderError, match=f"^list: .*({expected})") as caught:
        await machines.make(kubeconfig=str(file), context=context).list()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["KUBECONFIG", "home", "context"])
async def test_where_the_kubeconfig_is_found(machines, monkeypatch, how, tmp_path):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    if how == "home":
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        (tmp_path / "home/.kube").mkdir(parents=True)
        kubeconfig(tmp_path / "home/.kube/config", machines.url)
    else:
        monkeypatch.setenv("KUBECONFIG", str(machines.kubeconfig))
    provider = machines.make(kubeconfig="", context="test" if how == "context" else "")
    assert await runs(provider) == {}


async def test_inside_a_cluster_the_service_account_is_used(machines, monkeypatch, tmp_path):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    text = await refusal(machines.make(kubeconfig="").list)
    assert text == "list: kubeconfig: Configuration file ~/.kube/config not found", "there is none here"
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("of the account")
    (account / "namespace").write_text(NAMESPACE)
    found = KubeConfig.from_service_account(str(account)).get()
    assert found.cluster.server == "https://10.0.0.1:443"
    assert found.user.token_file == str(account / "token")
