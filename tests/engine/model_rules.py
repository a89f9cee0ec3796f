"""What must hold in every state of a small cluster, for the model check."""

from typing import TYPE_CHECKING

from engine.model_parts import P

if TYPE_CHECKING:
    from engine.model import World


def wrong(world: "World") -> str:
    """What is wrong with this state; "" if nothing is."""
    data = world.commands.data
    if world.strange:
        return world.strange
    for n, node in enumerate(world.nodes):
        if len(node.running) > world.size.capacity:
            return f"n{n} runs {len(node.running)} sessions"
        if len(data.get(f"{P}node:n{n}", ())) > world.size.capacity:
            return f"the engine gave {len(data[f'{P}node:n{n}'])} slots of n{n}"
    claims = data.get(f"{P}sessions", {})
    members = [session for n in range(len(world.nodes)) for session in data.get(f"{P}node:n{n}", ())]
    if sorted(members) != sorted(claims):
        return f"slots {sorted(members)} but sessions {sorted(claims)}"
    for session, claim in claims.items():
        owner = claim.split("|", 6)[6]
        if owner != "|" and owner not in data.get(f"{P}replicas", {}):
            return f"{session} belongs to {owner}, which is no replica"
    slots = data.get(f"{P}project:p", set())
    if slots != {session for session, claim in claims.items() if claim.split("|")[4] == "p"}:
        return f"the slots of the project are said to be {sorted(slots)}"
    # What already runs is counted, never ended: it may be above the limit when all is said again.
    if world.size.limit and len(slots) > world.size.limit and not world.size.freeze + world.size.wipe:
        return f"the project has {len(slots)} slots"
    barred = world.size.limit and len(slots) >= world.size.limit
    waits = data.get(f"{P}line") and data.get(f"{P}free") and "recover" not in data[f"{P}meta"] and not barred
    return "a session waits beside a free slot" if waits else _of_claims(world, claims)


def _of_claims(world: "World", claims: dict[str, str]) -> str:
    return _leak(world, claims) or _untold(world, claims) or _journal(world, claims)


def _journal(world: "World", claims: dict[str, str]) -> str:
    """What is served is in the journal, open as long as it has something, ended behind that."""
    data = world.commands.data
    entries = {name: entry.split("|") for name, entry in data.get(f"{P}journal", {}).items()}
    over = {name for name, entry in entries.items() if entry[3]}
    if over != {*data.get(f"{P}ended", {}), *data.get(f"{P}maybe", {})}:
        return f"ended in the journal: {sorted(over)}"
    for name, claim in claims.items():
        if claim.split("|")[2] == "1" and (name not in entries or name in over):
            return f"{name} is live, and its journal says {entries.get(name)}"
    for name in entries.keys() - over:
        if name not in claims and name not in data.get(f"{P}waiting", {}):
            return f"{name} has nothing, and its journal has no end"
    if world.size.wipe or not _at_rest(world):
        return ""
    for number in world.ran:
        doubt = f"s{number}" in data.get(f"{P}maybe", {}) and not any(number in node.running for node in world.nodes)
        if f"s{number}" not in entries or (doubt and not _may_come(world, number)):
            return f"s{number} was served, and the journal has nothing of it"
    return ""


def _may_come(world: "World", number: int) -> bool:
    """Whether the only one who knows of a session has gone with it: its node, which has booted anew."""
    return number in world.unsaid and world.faults["reboot"] < world.size.reboot


def _at_rest(world: "World") -> bool:
    """All attached or buried, no news, nothing under way."""
    data = world.commands.data
    quiet = world.all_attached() and not world.zombie and not any(":wake:" in key for key in data)
    buried = not any(world.unburied(each) for each in world.replicas)
    return quiet and buried and "recover" not in data.get(f"{P}meta", {})


def _untold(world: "World", claims: dict[str, str]) -> str:
    """At rest, each replica knows where the nodes of its sessions are, and the orphans of its nodes."""
    if not _at_rest(world):
        return ""
    records = world.commands.data.get(f"{P}nodes", {})
    for name, claim in claims.items():
        n, owner = int(claim[1 : claim.index("|")]), claim.split("|")[6]
        _, epoch, _, replica, _, socket = records[f"n{n}"].split("|")
        session, at = world.sessions[int(name[1:])], replica if socket else ""
        if not owner and at and int(name[1:]) not in world.replicas[int(at[1:])].orphans:
            return f"{at} was not told that {name} is an orphan"
        if owner and session.state in ("held", "live") and (session.epoch, session.at) != (int(epoch), at):
            return f"the owner of {name} was not told that n{n} is at {at}"
    return _books(world, records)


def _books(world: "World", records: dict[str, str]) -> str:
    """At rest, a replica has the sockets in its books, and no others."""
    for n, node in enumerate(world.nodes):
        book = {r: each[1] for r, other in enumerate(world.replicas) for each in other.books if each[0] == n}
        there = {r for r, socket in book.items() if socket and world.replicas[r].alive}
        if there - {node.socket}:
            return f"r{there} has a socket of n{n}, which is at r{node.socket}"
        if node.socket != -1 and records.get(f"n{n}", "|||").split("|")[3] != f"r{node.socket}":
            return f"the engine does not know that n{n} is at r{node.socket}"
    return ""


def _leak(world: "World", claims: dict[str, str]) -> str:
    """At rest, nobody holds what is not his."""
    if not _at_rest(world) or not all(each.alive for each in world.replicas):
        return ""
    for name in claims:
        session = world.sessions[int(name[1:])]
        if session.state in ("new", "gone"):
            return f"leaked: {name} is {session.state}"
        if session.state == "live" and int(name[1:]) not in world.nodes[session.node].running:
            return f"{name} has a slot of n{session.node}, which does not run it"
    return ""
