"""The protocol of a cluster, explored whole for small sizes; and the mutations that show that this can fail."""

import itertools
import os
import random

import pytest

from engine.lua_redis import Commands
from engine.model import explore
from engine.model_parts import FAULTS, Size


@pytest.mark.parametrize("fault", FAULTS)
def test_two_sessions_one_slot_one_fault(fault):
    outcome = explore(Size(2, 1, 1, **{fault: 1}))
    assert (outcome.wrong, outcome.path) == ("", [])
    assert outcome.states > 100


@pytest.mark.slow
@pytest.mark.parametrize("faults", [*itertools.combinations(FAULTS, 2)], ids="+".join)
def test_two_sessions_one_slot_two_faults(faults):
    outcome = explore(Size(2, 1, 1, **dict.fromkeys(faults, 1)))
    assert (outcome.wrong, outcome.path) == ("", [])
    assert outcome.states > 100


@pytest.mark.parametrize("fault", ["lose", "crash", "reboot"])
def test_a_project_with_a_limit(fault):
    outcome = explore(Size(2, 1, 2, limit=1, **{fault: 1}))
    assert (outcome.wrong, outcome.path) == ("", [])
    assert outcome.states > 100


@pytest.mark.slow
@pytest.mark.parametrize(
    "size",
    [
        Size(3, 1, 3, limit=2, lose=1),
        Size(2, 1, 2, limit=1, wipe=1, move=1),
        Size(2, 2, 1, wipe=1, lose=1),
    ],
    ids=str,
)
def test_larger(size):
    outcome = explore(size)
    assert (outcome.wrong, outcome.path) == ("", [])


@pytest.mark.slow
@pytest.mark.skipif("PROVE" not in os.environ, reason="minutes: `make prove`")
@pytest.mark.parametrize(
    "size",
    [
        Size(2, 1, 2, limit=1, freeze=1, drop=1),
        Size(3, 1, 1, crash=1),
        Size(3, 1, 1, freeze=1),
        Size(3, 1, 2, freeze=1),
        Size(2, 1, 1, crash=1, freeze=1, lose=1),
    ],
    ids=str,
)
def test_much_larger(size):
    outcome = explore(size)
    assert (outcome.wrong, outcome.path) == ("", [])


# What each protection is for: without it, the model check finds what goes wrong.
MUTATIONS = {
    "no gate on the node": (Size(2, 1, 1, freeze=1), False, [], "runs 2 sessions"),
    "no epoch of the engine, nor of replicas": (
        Size(2, 1, 1, freeze=1),
        True,
        [
            ("if known[1] ~= ARGV[2] then return { 'ENGINE' } end", ""),
            ("if not known[2] then return { 'FENCED' } end", ""),
            ("if known[2] ~= ARGV[4] then return { 'STALE' } end", ""),
        ],
        "is no replica",
    ),
    "no epoch of nodes": (
        Size(2, 1, 1, wipe=1, reboot=1),
        True,
        [
            ("if not node or node.epoch < tonumber(epoch) then", "if not node then"),
            ("if node.epoch ~= tonumber(epoch) then return { 'EPOCH-OF-NODE' } end", ""),
        ],
        "does not run it",
    ),
    "no grace after a loss": (
        Size(2, 1, 1, wipe=1),
        False,
        [("'recover', integer(now() + tonumber(lease))", "'recover', '0'")],
        "runs 2 sessions",
    ),
    "no generation of connections": (
        Size(2, 1, 1, zombie=1),
        True,
        [("if known[2] ~= ARGV[4] then return { 'STALE' } end", "")],
        "leaked",
    ),
    "a counter instead of a set": (
        Size(3, 1, 1, lose=1),
        True,
        [
            ("call('SCARD', P .. 'node:' .. id)", "tonumber(call('HGET', META, 'used') or '0')"),
            (
                "local function give(waiter, node)",
                "local function give(waiter, node)\n  call('HINCRBY', META, 'used', 1)",
            ),
            (
                "function run.release(session, why)",
                "function run.release(session, why)\n  call('HINCRBY', META, 'used', -1)",
            ),
        ],
        "the engine gave 2 slots",
    ),
    "a retried reserve takes another slot": (
        Size(1, 2, 1, lose=1),
        True,
        [
            (
                "if call('HEXISTS', SESSIONS, session) == 1 or call('HEXISTS', WAITING, session) == 1 then",
                "if false then",
            )
        ],
        "slots",
    ),
    "the limit of a project is not looked at": (
        Size(2, 1, 2, limit=1),
        True,
        [("return project ~= '' and limit > 0 and", "return limit < 0 and")],
        "the project has 2 slots",
    ),
    "the slots of a project are not given back": (
        Size(2, 1, 2, limit=1),
        True,
        [("call('SREM', P .. 'project:' .. claim.project, claim.session)", "call('SCARD', P .. 'project:')")],
        "are said to be",
    ),
    "nobody of a project is served when its slot is given back": (
        Size(2, 1, 2, limit=1),
        True,
        [
            (
                "if call('ZCARD', LINE) > 0 and call('ZCARD', FREE) > 0",
                "if call('ZCARD', LINE) > 1 and call('ZCARD', FREE) > 0",
            )
        ],
        "beside a free slot",
    ),
    "owners are not told of a new socket": (
        Size(1, 1, 1, move=1),
        True,
        [("else wake(claim.owner, 'moved', session, node) end", "end")],
        "the owner of s0 was not told",
    ),
    "owners are not told that a socket went with its replica": (
        Size(2, 1, 1, crash=1),
        True,
        [("if was ~= '' then tell_moved(node) end\n    end\n  end", "end\n  end")],
        "was not told that n0 is at",
    ),
    "orphans are told of at the owner's death only": (
        Size(2, 1, 1, crash=1),
        True,
        [("if claim.owner == '|' then tell_orphan(node, session) else", "if claim.owner ~= '|' then")],
        "was not told that s0 is an orphan",
    ),
    "orphans are told of before their owners have spoken": (
        Size(2, 1, 1, wipe=1, reboot=0, move=1),
        True,
        [("if replica_of(node) == '' or call('HEXISTS', META, 'recover') == 1 then", "if replica_of(node) == '' then")],
        "but its owner is alive",
    ),
    "orphans are not told of when all had time to speak": (
        Size(2, 1, 1, crash=1, wipe=1),
        True,
        [("  call('HDEL', META, 'recover')\n  tell_orphans()", "  call('HDEL', META, 'recover')")],
        "is an orphan",
    ),
    "a replica is not told that its socket was replaced": (
        Size(1, 1, 1, move=1),
        True,
        [("if old and not same and old.replica ~= me then", "if false then")],
        "has a socket of n0",
    ),
    "a begin is not in the journal": (
        Size(1, 1, 1),
        True,
        [
            (
                "  put_claim(claim)\n  note_begin(claim)\n  return { 'OK', '1' }",
                "  put_claim(claim)\n  return { 'OK', '1' }",
            )
        ],
        "is live, and its journal says",
    ),
    "a release does not end it in the journal": (
        Size(1, 1, 1),
        True,
        [("  note_end(session, why or '')\n", "")],
        "has nothing, and its journal has no end",
    ),
    "the loss of a node does not end it in the journal": (
        Size(1, 1, 1, reboot=1),
        True,
        [("  note_end(claim.session, 'node lost')\n", ""), ("  note_end(session, why or '')\n", "")],
        "has nothing, and its journal has no end",
    ),
    "who takes a session up does not open its journal again": (
        Size(1, 1, 1, wipe=1),
        True,
        [("  if claim.live then note_begin(claim) end\n", "")],
        "is live, and its journal says",
    ),
    "reservations go with their replica without a trace": (
        Size(1, 1, 1, crash=1),
        True,
        [("      note_maybe(claim, grace)\n", "")],
        "the journal has nothing of it",
    ),
    "nodes are not believed": (
        Size(1, 1, 1, crash=1),
        True,
        [("      note_surely(session, id)\n", "")],
        "the journal has nothing of it",
    ),
    "nobody is served when a slot is given back": (
        Size(2, 1, 1),
        True,
        [("else return { 'OK', '0' } end\n  serve_unless_recovering('')", "else return { 'OK', '0' } end")],
        "beside a free slot",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_are_found(name):
    size, gate, changes, wrong = MUTATIONS[name]
    outcome = explore(size, gate=gate, changes=changes)
    assert outcome.path, f"{name}: nothing was found in {outcome.states} states"
    assert wrong in outcome.wrong


def test_the_stand_in_answers_as_the_server_does(shared_server):
    """The same random commands on both: the answers are the same, and so the data is."""
    redis = pytest.importorskip("redis")
    chance = random.Random(7)
    mine = Commands()
    members, keys = [f"m{number}" for number in range(5)], ["h", "s", "z"]
    with redis.Redis(port=shared_server.port, decode_responses=True) as client:
        client.flushall()
        call = client.register_script("return redis.call(unpack(ARGV))")
        for _ in range(1500):
            arguments = _random_command(chance, members)
            ours, theirs = mine.run(*arguments), call(args=arguments)
            if isinstance(ours, list):
                ordered = arguments[0].startswith("Z") or arguments[0] == "HMGET"
                ours = [None if each is False else each for each in ours]
                ours, theirs = (ours, theirs) if ordered else (sorted(ours), sorted(theirs))
            assert (None if ours is False else ours) == theirs, arguments
        assert sorted(client.keys()) == sorted(mine.data)
        assert set(keys) >= set(mine.data)


def _random_command(chance, members):
    member, other = chance.choice(members), chance.choice(members)
    number = str(chance.randrange(-9, 9) * 2 ** chance.randrange(34))
    return chance.choice(
        [
            ("HSET", "h", member, number, other, number),
            ("HGET", "h", member),
            ("HSETNX", "h", member, number),
            ("HMGET", "h", member, other),
            ("HDEL", "h", member, other),
            ("HEXISTS", "h", member),
            ("HKEYS", "h"),
            ("HLEN", "h"),
            ("HGETALL", "h"),
            ("HINCRBY", "h", member, str(chance.randrange(5))),
            ("SADD", "s", member),
            ("SREM", "s", member, other),
            ("SCARD", "s"),
            ("SMEMBERS", "s"),
            ("ZADD", "z", number, member),
            ("ZREM", "z", member),
            ("ZCARD", "z"),
            ("ZRANGE", "z", "0", str(chance.randrange(-1, 4))),
            ("ZRANGEBYSCORE", "z", "-inf", f"({number}"),
            ("ZRANK", "z", member),
            ("ZSCORE", "z", member),
            ("DEL", chance.choice(["h", "s", "z", "none"]), "none"),
        ]
    )
