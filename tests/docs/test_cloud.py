"""examples/cloud.sh under the real provider, with a stand-in for the cloud's own command."""

import os
from pathlib import Path

import pytest

from docs.pages import ROOT
from rtcbridge.config import CommandOptions
from rtcbridge.drivers.providers import CommandProvider
from rtcbridge.ports import Launch, ProviderError

# One machine: `state` holds its state, `log` what was asked. It refuses what EC2 refuses.
AWS = """#!/bin/sh
cd "$CLOUD"
echo "$*" >>log
state=$(cat state 2>/dev/null || true)
case $2 in
describe-instances) case $state in "" | terminated) ;; *) printf 'i-1\\t%s\\n' "$state" ;; esac ;;
run-instances) [ -z "$state" ] && echo running >state ;;
wait) echo stopped >state ;;
start-instances) [ "$state" = stopped ] || { echo IncorrectInstanceState >&2; exit 254; }; echo running >state ;;
stop-instances) echo stopping >state ;;
terminate-instances) echo terminated >state ;;
*) exit 252 ;;
esac
"""

NODE = Launch("gpu-abcdef-00000001", "gpu", "wss://bridge.example.org/node", "nk_node_x")


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "aws").write_text(AWS)
    (tmp_path / "aws").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CLOUD", str(tmp_path))
    return tmp_path


@pytest.fixture
def provider() -> CommandProvider:
    script = ROOT / "examples" / "cloud.sh"
    options = CommandOptions(
        create=f"{script} create", start=f"{script} start", stop=f"{script} stop", destroy=f"{script} destroy"
    )
    return CommandProvider(options)


def state(cloud: Path) -> str:
    return (cloud / "state").read_text().strip()


async def test_a_machine_s_life(cloud: Path, provider: CommandProvider) -> None:
    await provider.create(NODE)
    await provider.create(NODE)
    log = (cloud / "log").read_text()
    assert log.count("run-instances") == 1
    assert f"Key=rtcbridge-node,Value={NODE.node}" in log
    assert all(f"\n{name}={value}\n" in log for name, value in NODE.env().items())
    await provider.stop(NODE)
    assert state(cloud) == "stopping"
    await provider.start(NODE)  # waits until it has stopped
    assert state(cloud) == "running"
    await provider.destroy(NODE)
    await provider.destroy(NODE)
    assert state(cloud) == "terminated"
    assert (cloud / "log").read_text().count("terminate-instances") == 1


@pytest.mark.parametrize("verb", ["start", "stop"])
async def test_a_machine_that_is_not_there_is_refused(cloud: Path, provider: CommandProvider, verb: str) -> None:
    with pytest.raises(ProviderError, match=f"no machine has the tag rtcbridge-node={NODE.node}"):
        await getattr(provider, verb)(NODE)
