"""What the objects of Kubernetes say of a node: whether it runs, what holds it up, what threatens it."""

from collections.abc import Iterable, Mapping

from lightkube.resources.core_v1 import PersistentVolumeClaim, Pod, Secret

from rtcbridge.drivers.providers.kubernetes_pod import NODE
from rtcbridge.ports import Machine, liveliest

_FINISHED = frozenset({"Succeeded", "Failed"})
# A container waits for these reasons as long as all goes well.
_USUAL = frozenset({"", "ContainerCreating", "PodInitializing"})
_LONGEST = 300


def node_of(item: Pod | PersistentVolumeClaim) -> str:
    """Return the id of the node that an object is of; empty for a foreign one."""
    notes = (item.metadata.annotations if item.metadata else None) or {}
    return str(notes.get(NODE, ""))


def is_ending(item: Pod | PersistentVolumeClaim | Secret) -> bool:
    """Say whether an object is being deleted: it has a time for that, and goes when its finalizers have."""
    return item.metadata is not None and item.metadata.deletionTimestamp is not None


def is_finished(pod: Pod) -> bool:
    """Say whether a Pod has ended for good: its agent ended, or it was evicted, or its machine has gone."""
    return pod.status is not None and pod.status.phase in _FINISHED


def machines(pods: Iterable[Pod], claims: Iterable[PersistentVolumeClaim]) -> Mapping[str, Machine]:
    """Return how each node stands.

    A Pod whose phase is Unknown may run, and counts as running. What is left of a node whose claim is being deleted
    is as good as gone, unless it has a Pod that nobody has begun to delete.
    """
    kept = {node_of(claim) for claim in claims if not is_ending(claim)}
    nodes = {node: Machine.STOPPED for node in kept if node}
    for pod in pods:
        if (node := node_of(pod)) and (node in kept or not is_ending(pod)):
            nodes[node] = liveliest(nodes.get(node, Machine.STOPPED), _machine(pod))
    return nodes


def _machine(pod: Pod) -> Machine:
    if is_ending(pod):
        return Machine.STOPPING
    if is_finished(pod):
        return Machine.STOPPED
    if disruption(pod):
        return Machine.LEAVING
    return Machine.COMING if pod.status is None or pod.status.phase in (None, "Pending") else Machine.RUNNING


def trouble(pod: Pod) -> str:
    """Return what keeps a Pod from running, in words; empty if nothing does."""
    status = pod.status
    if status is None or is_ending(pod):
        return ""
    if status.phase == "Failed":
        return _line(status.reason or "Failed", status.message)
    for condition in status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return _line(condition.reason or "not scheduled", condition.message)
    for container in (*(status.initContainerStatuses or ()), *(status.containerStatuses or ())):
        waiting = container.state.waiting if container.state else None
        if waiting is not None and (waiting.reason or "") not in _USUAL:
            return _line(waiting.reason or "", waiting.message)
    return ""


def disruption(pod: Pod) -> str:
    """Return why the cluster is about to take a Pod away, in words; empty if it is not."""
    for condition in (pod.status.conditions if pod.status else None) or ():
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return _line(condition.reason or condition.type, condition.message)
    return ""


def _line(reason: str, message: str | None) -> str:
    line = " ".join(f"{reason}: {message}".split()) if message else reason
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
