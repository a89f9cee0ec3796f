"""The kubernetes provider over HTTP, against a fake of the Kubernetes API whose Pods are processes."""

import asyncio
import base64

import pytest
import structlog
import yaml
from lightkube.resources.core_v1 import Secret

from docs.pages import ROOT, blocks
from drivers.kube_api import Fault, KubeApi, RefusalError
from drivers.kube_cluster import MACHINE, NAME, pods_in, refusal
from rtcbridge.drivers.providers.kubernetes_pod import pod, read_template
from rtcbridge.ports import Machine
from rtcbridge.testing.provider_contract import Contract, ListContract, launch, runs, until

pytestmark = pytest.mark.slow


@pytest.fixture
async def machines(tmp_path, monkeypatch):
    async with pods_in(tmp_path, monkeypatch) as pods:
        yield pods


@pytest.fixture
def api(machines) -> KubeApi:
    return machines.api


class TestContract(Contract, ListContract):
    """What every provider does."""


async def listed(provider, expected) -> None:
    """Look again and again, as the bridge does."""
    async with asyncio.timeout(15):
        while await runs(provider) != expected:  # noqa: ASYNC110 - the provider does not call
            await asyncio.sleep(0.01)


def lists(api: KubeApi) -> int:
    return api.count("GET pods") - api.count("POST pods")  # each creation looks at its own Pod first


# --- what there is of a node ---


async def test_a_node_is_a_claim_a_secret_and_a_pod(machines, api):
    await machines.make(gpus=1, volume_size="20Gi", storage_class="fast", env=("SIZE=small",)).create(launch())
    assert sorted(api.objects) == [(kind, NAME) for kind in ("persistentvolumeclaims", "pods", "secrets")]
    labels = {"app.kubernetes.io/managed-by": "rtcbridge", "rtcbridge/pool": "pool", "rtcbridge/node": "node-1"}
    assert all(item["metadata"]["labels"] == labels for item in api.objects.values())
    claim, pod, secret = (api.all(kind)[NAME] for kind in ("persistentvolumeclaims", "pods", "secrets"))
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "20Gi"}},
        "storageClassName": "fast",
    }
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert "nk_secret" not in str(pod)
    assert {key: base64.b64decode(value).decode() for key, value in secret["data"].items()} == {
        **launch().env(),
        "SIZE": "small",
    }
    assert secret["metadata"]["ownerReferences"][0]["uid"] == claim["metadata"]["uid"]


async def test_stopping_keeps_the_volume_and_destroying_does_not(machines, api):
    (machines.folder / "machine").write_text(
        f'test -e kept && echo kept >> "$TEST_FOLDER/found"; touch kept\n{MACHINE}'
    )
    provider = machines.make()
    await provider.create(launch())
    await until(machines.running)
    await provider.stop(launch())
    await until(lambda: not api.all("pods"))
    assert list(api.all("persistentvolumeclaims")) == [NAME]
    await provider.start(launch())
    await until(lambda: machines.boots() == 2)
    assert (machines.folder / "found").read_text() == "kept\n"
    await provider.destroy(launch())
    await until(lambda: not api.objects)
    await provider.create(launch())
    await until(lambda: machines.boots() == 3)
    assert (machines.folder / "found").read_text() == "kept\n"


async def test_a_start_tells_the_bridge_s_present_address(machines, api):
    provider = machines.make()
    await provider.create(launch())
    await until(machines.running)
    await provider.stop(launch())
    await provider.start(launch(url="wss://new.example/node"))
    await until(lambda: machines.boots() == 2)
    assert "RTCBRIDGE_URL=wss://new.example/node" in (machines.folder / "node-1.env").read_text().splitlines()


async def test_a_start_waits_for_the_end_of_the_former_pod(machines, api):
    slow = 'trap "until test -e $TEST_FOLDER/go; do sleep 0.02; done; exit" TERM\n'
    (machines.folder / "machine").write_text(slow + MACHINE.replace("exec sleep 600", "while :; do sleep 0.02; done"))
    provider = machines.make()
    await provider.create(launch())
    await until(machines.running)
    await provider.stop(launch())
    assert await runs(provider) == {"node-1": False}
    starting = asyncio.create_task(provider.start(launch()))
    asked = api.count("GET pods")
    await until(lambda: api.count("GET pods") > asked + 3)
    assert not starting.done()
    assert machines.running() == 1
    (machines.folder / "go").touch()
    await starting
    await until(lambda: machines.boots() == 2 and machines.running() == 1)


async def test_a_node_that_does_not_listen_is_killed(machines, api):
    (machines.folder / "machine").write_text('trap "" TERM\n' + MACHINE)
    provider = machines.make(stop_grace=1)
    await provider.create(launch())
    await until(machines.running)
    await provider.stop(launch())
    await until(lambda: not machines.running())
    await until(lambda: not api.all("pods"))


async def test_a_former_pod_that_never_ends_is_told(machines, api):
    provider = machines.make(stop_grace=1, timeout=0.5)
    await provider.create(launch())
    await until(machines.running)
    api.hooks.clear()
    await machines.kubelet.close()  # the machine is lost: nobody says that the Pod has ended
    await provider.stop(launch())
    assert await refusal(provider.start) == f"start: the former Pod {NAME} is still being deleted"


async def test_a_pod_that_was_evicted_is_down_and_can_be_started(machines):
    provider = machines.make()
    await provider.create(launch())
    await until(machines.running)
    assert await runs(provider) == {"node-1": True}
    machines.kubelet.evict(NAME)
    await listed(provider, {"node-1": False})
    assert provider.troubles == {"node-1": "Evicted: The node was low on resource: memory."}
    await provider.start(launch())
    await until(lambda: machines.boots() == 2 and machines.running())
    assert await runs(provider) == {"node-1": True}
    assert provider.troubles == {}


async def test_an_agent_that_ended_is_down_and_one_that_crashed_comes_back(machines, api):
    provider = machines.make()
    await provider.create(launch())
    await until(lambda: machines.kubelet.starts[NAME] == 1 and machines.running())
    machines.kubelet.crash(NAME)
    await until(lambda: machines.kubelet.starts[NAME] == machines.boots() == 2 and machines.running())
    assert await runs(provider) == {"node-1": True}
    machines.kubelet.crash(NAME)
    await until(lambda: "CrashLoopBackOff" in str(api.all("pods")))
    await listed(provider, {"node-1": True})
    assert provider.troubles["node-1"].startswith("CrashLoopBackOff: back-off")
    (machines.folder / "machine").write_text("exit 0")
    await provider.create(launch("node-2"))
    await listed(provider, {"node-1": True, "node-2": False})


async def test_what_holds_a_pod_up_is_logged_once(machines):
    machines.kubelet.unschedulable = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    provider = machines.make()
    with structlog.testing.capture_logs() as logs:
        await provider.create(launch())
        for _ in range(3):
            assert await runs(provider) == {"node-1": True}
    why = "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    assert [(entry["node"], entry["reason"]) for entry in logs] == [("node-1", why)]
    await provider.destroy(launch())
    assert await runs(provider) == {}


async def test_a_pod_that_the_cluster_is_about_to_take_away_is_noticed(machines, api):
    provider = machines.make()
    await provider.create(launch())
    await until(machines.running)
    assert await runs(provider) == {"node-1": True}
    pod = api.all("pods")[NAME]
    pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}]
    api.put("pods", pod)
    async with asyncio.timeout(15):
        while await provider.list() != {"node-1": Machine.LEAVING}:  # noqa: ASYNC110 - the provider does not call
            await asyncio.sleep(0.01)


# --- whose is it? ---


async def test_a_pool_sees_and_touches_only_its_own(machines, api):
    provider, other = machines.make(), machines.make("other")
    await provider.create(launch())
    assert await other.list() == {}
    for operation in (other.create, other.start, other.stop, other.destroy):
        assert f"{NAME} is not of pool other" in await refusal(operation)
    assert len(api.objects) == 3
    assert await runs(provider) == {"node-1": True}


async def test_what_bears_no_label_of_ours_is_left_alone(machines, api):
    provider = machines.make()
    await provider.create(launch())
    pod = api.all("pods")[NAME]
    del pod["metadata"]["labels"]["app.kubernetes.io/managed-by"]
    api.put("pods", pod)
    assert await refusal(provider.destroy) == f"destroy: the Pod {NAME} is not of pool pool"
    assert await runs(provider) == {"node-1": False}


@pytest.mark.parametrize("node", ["Gpu_1.a", "x" * 79, "-", "größe", "a b\nc"])
async def test_any_id_makes_a_node(machines, api, node):
    provider = machines.make()
    await provider.create(launch(node))
    assert await runs(provider) == {node: True}
    await provider.stop(launch(node))
    await provider.destroy(launch(node))
    await until(lambda: not api.objects)


async def test_what_was_made_half_is_listed_and_finished(machines, api):
    """The bridge was killed after the claim; or what it made was deleted by hand."""
    provider = machines.make()
    await provider.create(launch())
    await until(machines.running)
    del api.objects["secrets", NAME]
    api.remove("pods", api.all("pods")[NAME])
    again = machines.make()
    assert await runs(again) == {"node-1": False}
    await again.create(launch())
    assert len(api.objects) == 3
    assert await runs(again) == {"node-1": True}


async def test_a_claim_deleted_by_hand_takes_the_node_with_it(machines, api):
    provider = machines.make()
    await provider.create(launch())
    await until(machines.running)
    await provider.stop(launch())
    await until(lambda: not api.all("pods"))
    api.remove("persistentvolumeclaims", api.all("persistentvolumeclaims")[NAME])
    assert api.objects == {}
    assert await machines.make().list() == {}
    assert "there is no volume claim of node node-1" in await refusal(provider.start)


async def test_a_secret_that_another_changes_meanwhile_is_read_again(machines, api):
    provider = machines.make()
    await provider.create(launch())
    await until(machines.running)
    await provider.stop(launch())
    api.faults = [Fault("PUT", "secrets", RefusalError(409, "Conflict", "the object has been modified"))]
    await provider.start(launch(url="wss://new.example/node"))
    assert api.count("PUT secrets") == 2
    data = api.all("secrets")[NAME]["data"]
    assert base64.b64decode(data["RTCBRIDGE_URL"]) == b"wss://new.example/node"


async def test_a_secret_that_outlived_its_claim_goes_over_to_the_new_one(machines, api):
    """Else the garbage collector would take it from under the Pod."""
    provider = machines.make()
    await provider.create(launch())
    await until(machines.running)
    secret = api.all("secrets")[NAME]
    secret["metadata"]["ownerReferences"][0]["uid"] = "of a former claim"
    api.put("secrets", secret)
    await provider.create(launch())
    (owner,) = api.all("secrets")[NAME]["metadata"]["ownerReferences"]
    assert owner["uid"] == api.all("persistentvolumeclaims")[NAME]["metadata"]["uid"]


async def test_an_old_version_replaces_nothing(machines, api):
    """What the fake itself must do for the test above to mean anything."""
    provider = machines.make()
    await provider.create(launch())
    held = await provider._api.get(Secret, NAME)
    api.put("secrets", api.all("secrets")[NAME])
    assert not await provider._api.replace(held)
    held.metadata.resourceVersion = api.all("secrets")[NAME]["metadata"]["resourceVersion"]
    assert await provider._api.replace(held)


# --- lists and watches ---


async def test_a_long_list_comes_in_pages(machines, api):
    provider = machines.make()
    nodes = [f"node-{number}" for number in range(5)]
    await asyncio.gather(*(provider.create(launch(node)) for node in nodes))
    api.page_limit = 2
    before = lists(api)
    assert await runs(provider) == dict.fromkeys(nodes, True)
    assert lists(api) - before == 3


async def test_a_list_whose_version_is_compacted_between_two_pages_begins_anew(machines, api):
    provider = machines.make()
    for number in range(3):
        await provider.create(launch(f"node-{number}"))
    api.page_limit = 2
    api.compact_before_page = True
    before = api.count("GET persistentvolumeclaims")
    assert len(await provider.list()) == 3
    assert api.count("GET persistentvolumeclaims") - before == 4


async def watching(machines, provider) -> None:
    await provider.list()
    await until(lambda: machines.api.watches == 1)


async def test_a_watch_spares_the_api_server_and_shows_a_loss_at_once(machines, api):
    provider = machines.make(list_interval=3600)
    await provider.create(launch())
    await until(machines.running)
    await watching(machines, provider)
    assert provider.list_interval <= 1.0
    before = list(api.calls)
    for _ in range(20):
        assert await runs(provider) == {"node-1": True}
    api.remove("pods", api.all("pods")[NAME])
    await listed(provider, {"node-1": False})
    assert api.calls == before


async def test_changes_between_the_list_and_its_watch_are_seen(machines, api):
    provider = machines.make(list_interval=3600)
    await provider.create(launch())
    await until(machines.running)
    listing = provider._view._api.list

    async def list_then_lose(kind, labels):
        found = await listing(kind, labels)
        if kind.__name__ == "Pod":
            api.remove("pods", api.all("pods")[NAME])
        return found

    provider._view._api.list = list_then_lose
    assert await runs(provider) == {"node-1": True}
    await listed(provider, {"node-1": False})
    assert api.count("WATCH pods") == 1


@pytest.mark.parametrize("how", ["event", "status", "while open", "ended"])
async def test_after_a_watch_that_cannot_go_on_there_is_a_full_list(machines, api, how):
    provider = machines.make(list_interval=3600)
    await provider.create(launch())
    await until(machines.running)
    api.gone_by_status = how == "status"
    if how in ("event", "status"):
        listing = provider._view._api.list

        async def list_then_compact(kind, labels):
            found = await listing(kind, labels)
            provider._view._api.list = listing
            if kind.__name__ == "Pod":
                api.put("pods", api.all("pods")[NAME])
                api.compact()
            else:
                provider._view._api.list = list_then_compact
            return found

        provider._view._api.list = list_then_compact
        await provider.list()
    else:
        await watching(machines, provider)
        if how == "while open":
            api.expire_watches()
        else:
            api.faults = [Fault("GET", "pods", RefusalError(403, "Forbidden", "no more"), watch=True)]
            api.end_watches()
    await until(lambda: provider._view._watch.done())
    with structlog.testing.capture_logs() as logs:
        before = lists(api)
        assert await runs(provider) == {"node-1": True}
        assert lists(api) == before + 1
        await until(lambda: api.watches == 1)
        api.remove("pods", api.all("pods")[NAME])
        await listed(provider, {"node-1": False})
    assert lists(api) == before + 1
    assert logs == []
    assert provider.list_interval == 1.0 or how == "ended"


async def test_without_the_right_to_watch_it_lists(machines, api):
    refused = RefusalError(403, "Forbidden", "pods is forbidden")
    api.faults = [Fault("GET", "pods", refused, watch=True, times=99)]
    provider = machines.make(list_interval=5)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            assert await runs(provider) == {}
            await until(lambda: provider._view._watch.done())
    assert provider.list_interval == 5
    assert lists(api) == 3
    assert [(entry["log_level"], entry["event"]) for entry in logs if entry["log_level"] == "warning"] == [
        ("warning", "the watch of Pods has ended; they are listed instead")
    ]
    assert logs[0]["reason"] == "the API server answers 403 Forbidden"


async def test_a_full_list_is_made_now_and_then_all_the_same(machines, api):
    provider = machines.make(list_interval=0.05)
    await watching(machines, provider)
    before = lists(api)
    async with asyncio.timeout(15):
        while lists(api) < before + 2:
            assert await runs(provider) == {}
            await asyncio.sleep(0.01)


async def test_nothing_is_left_open(machines, api):
    provider = machines.make()
    await watching(machines, provider)
    await provider.close()
    await until(lambda: api.watches == 0)
    assert await runs(provider) == {}, "it may be used again"
    await provider.close()


# --- what the page says ---


def manifests() -> dict[str, dict]:
    found = blocks("yaml", pages=[ROOT / "docs" / "how-to" / "provider-kubernetes.md"])
    return {each.get("kind", "template"): each for block in found for each in yaml.safe_load_all(block.text)}


async def test_the_permissions_of_the_page_are_enough_and_none_is_too_many(machines, api):
    rules = manifests()["Role"]["rules"]
    allowed = {(kind, verb) for rule in rules for kind in rule["resources"] for verb in rule["verbs"]}
    used = set()

    class Noted(set):
        def __contains__(self, pair):
            used.add(pair)
            return pair in allowed

    api.allowed = Noted()
    provider = machines.make()
    await provider.create(launch())
    await until(machines.running)
    await watching(machines, provider)
    await provider.stop(launch())
    await provider.start(launch(url="wss://new.example/node"))
    await provider.destroy(launch())
    await until(lambda: not api.objects)
    assert used == allowed


async def test_the_template_of_the_page_is_one(machines):
    file = machines.folder / "pod.yaml"
    file.write_text(yaml.safe_dump(manifests()["template"]))
    made = pod(machines.options(), launch(), read_template(str(file)))
    assert made.spec.priorityClassName == "video"
    assert made.spec.containers[0].securityContext.runAsNonRoot
