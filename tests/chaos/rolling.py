"""A rolling restart under load, behind a balancer that asks /readyz."""

import signal
from collections import Counter

from chaos.checks import be_quiet, messages_lost
from chaos.oracle import Of
from chaos.parts import wait_for
from chaos.world import Size, World

SIZE = Size(clients=40, capacity=4, drain=0.5, balanced=True, refusing=0.0, life=(0.02, 1.0))
FAILED = (Of.CUT, Of.LOST, Of.ERRORS, Of.STUCK, Of.GAPS)
_REST = 100  # reservations between one replica and the next


def restart_all(world: World) -> Counter[str]:
    """Stop one replica after the other, each back before the next; return what became of sessions and messages."""
    world.wait_reservations(_REST)
    for replica in world.replicas:
        replica.signal(signal.SIGTERM)
        wait_for(lambda replica=replica: not replica.runs, "the end of a replica")  # type: ignore[misc]
        assert replica.process is not None
        assert replica.process.returncode == 0
        replica.start()
        replica.wait_ready()
        wait_for(lambda replica=replica: world.is_balanced(replica), "the balancer's word")  # type: ignore[misc]
        world.wait_reservations(_REST)
    be_quiet(world)
    return messages_lost(world)


def report(world: World, found: Counter[str]) -> str:
    """The figures, in Markdown."""
    clients, nodes = world.of_clients, world.of_nodes
    came = world.of_messages[Of.TO_NODE], clients[Of.TO_CLIENT]
    rows = {
        "sessions that were given a slot": clients[Of.RESERVED],
        "… that failed: cut, told an error or that the node was lost, left without a word": sum(
            clients[each] for each in FAILED
        ),
        "… whose client's socket was closed with 1012 while its media was up": clients[Of.LIVE_CUT],
        "… of these, that did not come to their own end at the node": found["ended with its socket"],
        "sockets closed with 1012 before there was a slot": clients[Of.TURNED_AWAY],
        "candidates that came, to nodes and to clients": f"{came[0]:,}, {came[1]:,}",
        "… that were lost, to nodes and to clients": f"{found['lost to nodes']}, {found['lost to clients']}",
        "… that came twice, or to another session": clients[Of.TWICE]
        + clients[Of.FOREIGN]
        + world.of_messages[Of.TWICE],
        "offers to a full node": nodes[Of.OFFERED_OVER],
    }
    return "\n".join(["| what | how many |", "|---|---|", *[f"| {what} | {figure} |" for what, figure in rows.items()]])
