"""Machines of the tests that are processes of this one, and shell commands that make them."""

import psutil

from rtcbridge.config import CommandOptions

# The "machine" of these tests: a process that notes its environment and lives until it is told to end.
MACHINE = """
env > "$TEST_FOLDER/$RTCBRIDGE_NODE.env"
echo $$ >> "$TEST_FOLDER/$RTCBRIDGE_NODE.pids"
exec sleep 600
"""
# Commands that bear being killed at any point and run again, as those of a real cloud must.
DISK = 'export DISK="$TEST_FOLDER/$RTCBRIDGE_NODE"; '
RUN = """setsid sh -c '(set -C; echo $$ > "$DISK/pid") 2>/dev/null || exit; exec sh "$TEST_FOLDER/machine"' &
until test -s "$DISK/pid"; do sleep 0.01; done"""
KILL = "until test -s pid; do sleep 0.01; done; kill $(cat pid); rm pid"
COMMANDS = CommandOptions(
    create=f'{DISK} mkdir -p "$DISK"; test -e "$DISK/pid" && exit; {RUN}',
    start=f'{DISK} cd "$DISK" || {{ echo "no machine" >&2; exit 3; }}; test -e pid && exit; {RUN}',
    stop=f'{DISK} cd "$DISK" || {{ echo "no machine" >&2; exit 3; }}; test -e pid || exit 0; {KILL}',
    destroy=f'{DISK} mv "$DISK" "$DISK.gone" 2>/dev/null || exit 0; cd "$DISK.gone"; test -e pid && {{ {KILL}; }}; '
    'rm -r "$DISK.gone"',
    list="""cd "$TEST_FOLDER"; for disk in */; do
        case $disk in "*/" | *.gone/) ;; *) test -e "$disk/pid" && state=running || state=stopped
            echo "${disk%/} $state" ;; esac; done""",
    timeout=20,
)


def pids(folder, node="node-1"):
    """The processes that ran as this node, the latest last."""
    file = folder / f"{node}.pids"
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


def runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def running(folder, node="node-1"):
    return [pid for pid in pids(folder, node) if runs(pid)]
