"""The real `pool.lua` in a Lua interpreter of this process, over a stand-in for the server's data.

The stand-in has just the commands that the script calls; `test_model_check.py` compares each with a real server. It
exists because a model check needs the state before each of some 100,000 steps again, which no server gives back.
"""

from typing import Any

from lupa import lua51

from rtcbridge.drivers.engine.redis_store import SCRIPT

Data = dict[str, Any]


def text(value: Any) -> str:
    """An argument as the server takes it."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float):
        return f"{value:.17g}"
    return str(value)


class Commands:
    """The data, and the commands. Hashes are dicts, sets are sets, sorted sets dicts of floats, streams lists."""

    def __init__(self) -> None:
        self.data: Data = {}
        self.now = 0  # milliseconds

    def copy(self) -> Data:
        return {key: value.copy() for key, value in self.data.items()}

    def run(self, *arguments: Any) -> Any:
        """Do one command; nil is False, as the script sees it."""
        name, *rest = [text(each) for each in arguments]
        return getattr(self, f"do_{name.lower()}")(*rest)

    def _prune(self, key: str) -> None:
        if key in self.data and not self.data[key]:
            del self.data[key]

    def do_time(self) -> list[str]:
        return [str(self.now // 1000), str(self.now % 1000 * 1000)]

    def do_hget(self, key: str, name: str) -> Any:
        return self.data.get(key, {}).get(name, False)

    def do_hmget(self, key: str, *names: str) -> Any:
        return [self.do_hget(key, name) for name in names]

    def do_hset(self, key: str, *pairs: str) -> int:
        there = self.data.setdefault(key, {})
        before = len(there)
        there.update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(there) - before

    def do_hsetnx(self, key: str, name: str, value: str) -> int:
        return 0 if self.do_hexists(key, name) else self.do_hset(key, name, value)

    def do_hdel(self, key: str, *names: str) -> int:
        there = self.data.get(key, {})
        gone = sum(there.pop(name, None) is not None for name in names)
        self._prune(key)
        return gone

    def do_hexists(self, key: str, name: str) -> int:
        return int(name in self.data.get(key, {}))

    def do_hlen(self, key: str) -> int:
        return len(self.data.get(key, ()))

    def do_hkeys(self, key: str) -> list[str]:
        return list(self.data.get(key, {}))

    def do_hgetall(self, key: str) -> list[str]:
        return [each for pair in self.data.get(key, {}).items() for each in pair]

    def do_hincrby(self, key: str, name: str, by: str) -> int:
        number = int(self.do_hget(key, name) or 0) + int(by)
        self.do_hset(key, name, str(number))
        return number

    def do_sadd(self, key: str, *members: str) -> int:
        there = self.data.setdefault(key, set())
        before = len(there)
        there.update(members)
        return len(there) - before

    def do_srem(self, key: str, *members: str) -> int:
        there = self.data.get(key, set())
        before = len(there)
        there.difference_update(members)
        self._prune(key)
        return before - len(there)

    def do_scard(self, key: str) -> int:
        return len(self.data.get(key, ()))

    def do_smembers(self, key: str) -> list[str]:
        return sorted(self.data.get(key, ()))

    def do_zadd(self, key: str, score: str, member: str) -> int:
        there = self.data.setdefault(key, {})
        new = member not in there
        there[member] = float(score)
        return int(new)

    def do_zrem(self, key: str, *members: str) -> int:
        return self.do_hdel(key, *members)

    def do_zcard(self, key: str) -> int:
        return len(self.data.get(key, ()))

    def _sorted(self, key: str) -> list[str]:
        there = self.data.get(key, {})
        return sorted(there, key=lambda member: (there[member], member))

    def do_zrange(self, key: str, first: str, last: str) -> list[str]:
        members = self._sorted(key)
        end = int(last)
        return members[int(first) : end + 1 if end >= 0 else len(members) + end + 1]

    def do_zrangebyscore(self, key: str, low: str, high: str) -> list[str]:
        assert low == "-inf"
        assert high[0] == "("
        return [member for member in self._sorted(key) if self.data[key][member] < float(high[1:])]

    def do_zrank(self, key: str, member: str) -> Any:
        members = self._sorted(key)
        return members.index(member) if member in members else False

    def do_zscore(self, key: str, member: str) -> Any:
        score = self.data.get(key, {}).get(member)
        return False if score is None else f"{score:.17g}"

    def do_xadd(self, key: str, id: str, name: str, value: str) -> str:
        self.data.setdefault(key, []).append(value)
        return "0-0"

    def do_del(self, *keys: str) -> int:
        return sum(self.data.pop(key, None) is not None for key in keys)


class Script:
    """The script, compiled. `call` runs one step over `commands`."""

    def __init__(self, commands: Commands, source: str = SCRIPT.decode()) -> None:
        self.commands = commands
        lua = lua51.LuaRuntime(unpack_returned_tuples=True)
        table = lua.table_from

        def call(*arguments: Any) -> Any:
            answer = commands.run(*arguments)
            return table(answer) if isinstance(answer, list) else answer

        lua.globals()["pycall"] = call
        self._run = lua.eval(
            "function(body) local f = assert(loadstring(body)); redis = { call = pycall };"
            " return function(...) KEYS = { 'rtcbridge:{p}:' }; ARGV = { ... }; return f() end end"
        )(source)

    def call(self, *arguments: Any) -> list[Any]:
        """Run one command with its guard."""
        answer = self._run(*[text(each) for each in arguments])
        return [answer[index] for index in range(1, len(answer) + 1)]
