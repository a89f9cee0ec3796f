"""The contract of `Journal`, over every engine: what began and ended is known until it is confirmed."""

import time

from engine.conftest import Replica, until
from engine.lua_redis import Commands, Script
from rtcbridge.drivers.engine import MemoryEngine, memory_journal
from rtcbridge.drivers.engine.redis_store import SCRIPT
from rtcbridge.ports_engine import Grant


async def over(replica, **options):
    """What the journal says, without the times."""
    entries = await replica.store.journal(0.0, **options)
    assert all(abs(entry.ended - time.time()) < 60 and entry.began <= entry.ended for entry in entries)
    return [(entry.id, entry.node, entry.project, entry.reason) for entry in entries]


async def serving(replica, *sessions, project="P"):
    """A node that serves these."""
    await replica.store.node_up("n1", 3, "socket-1")
    for session in sessions:
        assert isinstance(await replica.store.reserve(session, project=project), Grant)
        assert await replica.store.begin(session)


async def test_a_session_that_has_ended_is_kept_until_it_is_confirmed(make):
    a, b = await make(), await make()
    await serving(a, "s1", "s2")
    assert await over(a) == []
    await a.store.release("s1", "closed | by its client||")
    await a.store.release("s1", "again")
    await a.store.release("s2", "closed")
    await a.store.release("s2", "again")
    assert await over(b) == [("s1", "n1", "P", "closed | by its client||"), ("s2", "n1", "P", "closed")]
    assert await over(b, limit=1) == [("s1", "n1", "P", "closed | by its client||")]
    assert await b.store.journal(age=60.0) == []
    await b.store.confirm(["s1", "nobody"])
    assert await over(a) == [("s2", "n1", "P", "closed")]
    await a.store.confirm(["s2"])
    await a.store.confirm(["s2"])
    assert await over(b) == []


async def test_a_reason_that_no_store_would_take(make):
    a = await make()
    await serving(a, "s1")
    await a.store.release("s1", "a\0b\ud800\n" + 300 * "x")
    assert await over(a) == [("s1", "n1", "P", "a b  " + 195 * "x")]


async def test_what_never_began_is_in_no_journal(make):
    a = await make()
    await a.store.node_up("n1", 1, "socket-1")
    await a.store.reserve("s1")
    await a.store.reserve("s2")
    await a.store.release("s2", "left")
    await a.store.release("s1", "left")
    assert await over(a) == []


async def test_one_that_is_tried_on_another_node_has_not_ended(make):
    a = await make()
    await serving(a, "s1")
    await a.store.release("s1")
    await a.store.reserve("s1", exclude="n1", patient=True, project="P")
    assert await over(a) == []
    await a.store.confirm(["s1"])
    await a.store.node_up("n2", 1, "socket-2")
    await until(a, lambda view: "s1" in view.sessions)
    await a.store.begin("s1")
    began = time.time()
    await a.store.release("s1", "closed")
    assert await over(a) == [("s1", "n2", "P", "closed")]
    assert (await a.store.journal(0.0))[0].began <= began + 0.5


async def test_one_for_which_there_is_no_other_node_has_ended(make):
    a = await make()
    await serving(a, "s1")
    await a.store.release("s1")
    await a.store.reserve("s1", exclude="n1", patient=False, project="P")
    assert await over(a) == [("s1", "n1", "P", "full")]


async def test_the_end_of_a_node_is_that_of_its_sessions(make):
    a = await make()
    await serving(a, "s1", "s2")
    await a.store.node_up("n1", 3, "socket-2", ["s1"], 1)
    assert await over(a) == [("s2", "n1", "P", "node lost")]
    await a.store.node_gone("n1", 2)
    assert sorted(await over(a)) == [("s1", "n1", "P", "node lost"), ("s2", "n1", "P", "node lost")]
    await a.store.release("s1", "it says so, too")
    assert ("s1", "n1", "P", "node lost") in await over(a), "the first end counts"


async def test_what_a_dead_replica_began_is_open_until_nobody_took_it_over(make):
    a, b = await make(grace=0.5), await make(grace=0.5)
    await b.store.node_up("n1", 3, "socket-1")
    for session in ("kept", "left"):
        await a.store.reserve(session, project="P")
        await a.store.begin(session)
    await a.engine.close()
    assert await over(b) == []
    assert await b.store.hold("kept", "n1", 1)
    await until(b, lambda view: "left" not in view.sessions)
    assert await over(b) == [("left", "n1", "P", "bridge lost")]
    await b.store.release("kept", "closed")
    assert sorted(await over(b)) == [("kept", "n1", "P", "closed"), ("left", "n1", "P", "bridge lost")]


async def test_a_node_is_believed_that_serves_what_was_only_reserved(make):
    a, b = await make(), await make()
    await b.store.node_up("n1", 3, "socket-1")
    for session in ("early", "late", "never"):
        await a.store.reserve(session, project="P")
    await b.store.served("n1", ["early", "unheard of"])
    view = await b.store.look()
    assert [session for session, held in view.sessions.items() if held.live] == ["early"]
    await a.engine.close()
    assert list((await until(b, lambda view: len(view.sessions) == 1)).sessions) == ["early"]
    await b.store.served("another node", ["late"])
    assert await over(b) == []
    await b.store.served("n1", ["late", "unheard of"])
    assert await over(b) == [("late", "n1", "P", "bridge lost")]
    await b.store.confirm(["late", "never"])
    assert await b.store.hold("early", "n1", 1)
    await b.store.release("early", "closed")
    assert await over(b) == [("early", "n1", "P", "closed")]


async def test_what_a_node_lists_that_nobody_claims_has_begun(make):
    a = await make(grace=0.2)
    await a.store.node_up("n1", 1, "socket-1", ["s1"])
    await until(a, lambda view: not view.sessions)
    assert await over(a) == [("s1", "n1", "", "bridge lost")]


def test_the_journal_is_bounded_in_the_script():
    script = Script(Commands(), SCRIPT.decode().replace("JOURNAL_LIMIT = 200000", "JOURNAL_LIMIT = 3"))
    script.commands.now = 1_000
    epoch, me = script.call("attach", "", "r0|", 1, "server", 10, 10, "E")[1:3]
    script.commands.now += 20
    script.call("attach", epoch, "r0|", 2, "server", 1_000, 10, "E")
    me = next(iter(script.commands.data["rtcbridge:{p}:replicas"]))
    script.call("node", epoch, me, 2, "n1", 9, "k1", 0, 1, 1, "", 10, "")
    for number in range(6):
        script.commands.now += 1
        assert script.call("reserve", epoch, me, 2, f"s{number}", 0, 0, "", 1, "", "P", 0)[0] == "grant"
        assert script.call("begin", epoch, me, 2, f"s{number}")[1] == "1"
        script.call("release", epoch, me, 2, f"s{number}", "closed")
    assert len(script.commands.data["rtcbridge:{p}:journal"]) == 6
    assert script.call("beat", epoch, me, 2, 1_000, 10)[0] == "OK"
    assert sorted(script.commands.data["rtcbridge:{p}:journal"]) == ["s3", "s4", "s5"]
    assert sorted(script.commands.data["rtcbridge:{p}:ended"]) == ["s3", "s4", "s5"]


async def test_the_journal_is_bounded_in_memory(monkeypatch):
    monkeypatch.setattr(memory_journal, "LIMIT", 3)
    a = await Replica(MemoryEngine()).start()
    await serving(a, "s0", "s1", "s2")
    await a.store.node_up("n2", 3, "socket-2")
    for number in range(6):
        if number > 2:
            await a.store.reserve(f"s{number}", project="P")
            await a.store.begin(f"s{number}")
        await a.store.release(f"s{number}", "closed")
    assert [entry[0] for entry in await over(a)] == ["s3", "s4", "s5"]
    await a.engine.close()


async def test_what_has_ended_is_not_taken_up_again(make):
    a, b = await make(), await make()
    await serving(a, "s1", "s2")
    await a.store.release("s1", "closed")
    assert not await b.store.hold("s1", "n1", 1)
    registered = await b.store.node_up("n1", 3, "socket-2", ["s1", "s2"], 1)
    assert list(registered.sessions) == ["s2"]
    await a.store.confirm(["s1"])
    assert await b.store.hold("s1", "n1", registered.epoch)  # now only the ledger knows
