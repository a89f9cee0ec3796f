"""The command provider: how its commands are run, bounded and read."""

import asyncio

import pytest

from drivers.processes import pids, running
from rtcbridge.config import CommandOptions
from rtcbridge.drivers.providers import CommandProvider
from rtcbridge.ports import Machine, ProviderError
from rtcbridge.testing.provider_contract import launch, until


def command(create, timeout=20.0):
    return CommandProvider(CommandOptions(create=create, start="a", stop="b", destroy="c", timeout=timeout))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("exit 7", "create command: exit status 7"),
        ("echo one; echo two >&2; exit 1", "create command: exit status 1: one two"),
        ("kill -9 $$", "create command: killed by signal 9"),
        ("no-such-command-here", "create command: exit status 127: .*not found"),
        ("printf '\\377\\n\\n'; exit 1", "create command: exit status 1: �"),
        ("echo token $RTCBRIDGE_NODE_TOKEN; exit 1", "create command: exit status 1: token …"),
    ],
)
async def test_a_command_that_fails_says_why_in_one_line(line, expected):
    with pytest.raises(ProviderError, match=f"^{expected}$") as caught:
        await command(line).create(launch())
    assert "nk_secret" not in str(caught.value)


async def test_a_long_output_is_cut_at_its_front():
    with pytest.raises(ProviderError) as caught:
        await command("seq 100000; echo the end; exit 1").create(launch())
    assert len(str(caught.value)) < 500
    assert str(caught.value).endswith("100000 the end")


@pytest.mark.parametrize("behind", range(370, 404, 4))
async def test_half_a_token_at_the_cut_is_not_shown(behind):
    line = f"printf 'before %s' $RTCBRIDGE_NODE_TOKEN; printf '{' x' * (behind // 2)}'; exit 1"
    with pytest.raises(ProviderError, match=r"exit status 1: .*x x x$") as caught:
        await command(line).create(launch())
    for part in ("secret", "node-1", "de-1"):
        assert part not in str(caught.value)


async def test_a_command_that_writes_without_end_is_killed():
    with pytest.raises(ProviderError, match=r"^create command: wrote more than 16 MiB: x x"):
        await command("exec yes x").create(launch())


async def test_an_overrun_kills_the_command_with_all_that_it_started(folder):
    line = 'echo waiting; sleep 600 & echo $! > "$TEST_FOLDER/node-1.pids"; wait'
    with pytest.raises(ProviderError, match=r"^create command: not done after 0.5 s: waiting$"):
        await command(line, timeout=0.5).create(launch())
    assert len(pids(folder)) == 1
    await until(lambda: not running(folder))


async def test_a_cancelled_command_is_killed_with_all_that_it_started(folder):
    line = 'sleep 600 & echo $! > "$TEST_FOLDER/node-1.pids"; wait'
    creating = asyncio.create_task(command(line).create(launch()))
    await until(lambda: running(folder))
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await until(lambda: not running(folder))


async def test_what_a_command_leaves_behind_lives_and_keeps_its_output(folder):
    """`rtcbridge node … &` without a redirection is a fair command."""
    line = (
        '(echo one; while ! test -e "$TEST_FOLDER/go"; do sleep 0.02; done; echo two >&2 && touch "$TEST_FOLDER/done"; '
        'exec sleep 600) & echo $! > "$TEST_FOLDER/node-1.pids"'
    )
    async with asyncio.timeout(10):
        await command(line).create(launch())
    (folder / "go").touch()
    await until(lambda: (folder / "done").exists())
    assert running(folder)


# --- the list ---


def listing(line, **options):
    return CommandProvider(CommandOptions(create="true", start="true", stop="true", destroy="true", list=line))


async def test_without_a_command_there_is_no_list():
    assert await listing("").list() is None


async def test_a_line_a_machine():
    text = "a running\\n\\n  b\\tstopped  \\nc stopped\\nc running\\nc stopped\\n"
    provider = listing(f"echo a warning >&2; printf '{text}'")
    assert await provider.list() == {"a": Machine.RUNNING, "b": Machine.STOPPED, "c": Machine.RUNNING}
    assert provider.list_interval == 30


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("echo a running; echo b paused", "expected NODE running or NODE stopped, not 'b paused'"),
        ("echo running", "expected NODE running or NODE stopped, not 'running'"),
        ("seq -s ' ' 99999", f"expected NODE running or NODE stopped, not '{' '.join(map(str, range(1, 36)))[:80]}'"),
        ("echo a running; echo 401 >&2; exit 3", "exit status 3: 401"),
        ("exec yes a running", "wrote more than 16 MiB"),
    ],
)
async def test_a_list_that_is_none_is_refused_as_a_whole(line, expected):
    with pytest.raises(ProviderError) as caught:
        await listing(line).list()
    assert str(caught.value) == f"list command: {expected}"


async def test_a_list_has_no_node_in_its_environment(folder, monkeypatch):
    monkeypatch.setenv("CLOUD_KEY", "k")
    await listing('env > "$TEST_FOLDER/list.env"').list()
    names = {line.partition("=")[0] for line in (folder / "list.env").read_text().splitlines()}
    assert "CLOUD_KEY" in names
    assert not any(name.startswith("RTCBRIDGE_") for name in names & set(launch().env()))


async def test_a_new_machine_may_be_missing_in_the_list_for_a_moment(folder, monkeypatch):
    provider = listing('cat "$TEST_FOLDER/list"')
    (folder / "list").write_text("other stopped\n")
    await provider.create(launch())
    assert await provider.list() == {"node-1": Machine.COMING, "other": Machine.STOPPED}
    (folder / "list").write_text("node-1 stopped\n")
    assert await provider.list() == {"node-1": Machine.STOPPED}, "what the list says goes before"
    (folder / "list").write_text("")
    await provider.stop(launch())
    assert await provider.list() == {}
    (folder / "list").write_text("node-1 running\n")
    assert await provider.list() == {"node-1": Machine.STOPPING}, "it is from before the stop"
    (folder / "list").write_text("")
    await provider.start(launch())
    assert await provider.list() == {"node-1": Machine.COMING}
    with monkeypatch.context() as later:
        later.setattr("rtcbridge.drivers.providers.command._UNSEEN", 0.0)
        assert await provider.list() == {}
    await provider.create(launch())
    await provider.destroy(launch())
    assert await provider.list() == {}
