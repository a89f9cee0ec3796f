"""What runs on a host: one POSIX shell script, sent on the standard input of `sh`, and the words it answers with.

It is sent as functions whose call is the last line: what is cut off on its way does nothing at all. The node's
token is in it and never on a command line, where everyone on the host could read it. Hosts run Linux and have
`flock` and `setsid` (util-linux).

A node's folder on a host is `STATE/POOL/NODE`, with `node.log` and `pid`: the process's id, when it started (in
clock ticks since the boot, proc_pid_stat(5)) and the id of that boot, since process ids are used again. The file
is there before the agent runs, for the process writes it itself. What else the agent started is known by the
variable RTCBRIDGE_FOLDER in its environment.
"""

import math
import shlex

from rtcbridge.ports import Launch

ANSWER = "rtcbridge: "  # before each line that is ours: a log-in shell may say what it likes
FULL = "full"
MISSING = "missing"
DONE = "done"
_KILL_WAIT = 10  # seconds for the kernel to remove a killed process

_FUNCTIONS = r"""
answer() { echo "rtcbridge: $*"; }

fail() { answer "failed $*"; exit 0; }

born() { # when a process started; nothing for one that is gone or a zombie
    sed -n 's/^.*) [^ZX] /x /p' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20
}

main() { # the node's process, in $pid, if it runs
    pid= start= boot=
    [ -r "$1/pid" ] && read -r pid start boot <"$1/pid" || return 1
    [ -n "$start" ] && [ "$boot" = "$(cat /proc/sys/kernel/random/boot_id)" ] && [ "$(born "$pid")" = "$start" ]
}

rest() { # every process of the node
    grep -lzxF "RTCBRIDGE_FOLDER=$folder" /proc/[0-9]*/environ 2>/dev/null | cut -d / -f 3
}

enter() { # one operation a host at a time
    umask 077
    cd && mkdir -p "$state" && cd "$state" || fail "the folder $state cannot be made"
    for tool in flock setsid; do
        command -v "$tool" >/dev/null || fail "$tool is not installed (util-linux)"
    done
    folder=$PWD/$pool/$node
    exec 9>lock && flock -w "$patience" 9 || fail "another operation is not done within $patience s"
}

spawn() {
    rm -f "$folder/pid"
    [ "$(wc -c <"$folder/node.log" 2>/dev/null || echo 0)" -lt 4194304 ] || : >"$folder/node.log"
    (
        cd && RTCBRIDGE_FOLDER=$folder && export RTCBRIDGE_FOLDER && variables || exit
        exec setsid sh -c '
            read -r boot </proc/sys/kernel/random/boot_id
            echo "$$ $(sed "s/^.*) //" /proc/$$/stat | cut -d " " -f 20) $boot" >"$1/pid.new" &&
                mv "$1/pid.new" "$1/pid" && exec sh -c "$2"
        ' sh "$folder" "$command"
    ) </dev/null >>"$folder/node.log" 2>&1 9>&- &
    until [ -e "$folder/pid" ]; do
        kill -0 $! 2>/dev/null || fail "the node cannot be started: $(tail -n 1 "$folder/node.log")"
        sleep 0.02
    done
}

end() { # SIGTERM for the node's process, SIGKILL for whatever is left
    if main "$folder"; then
        kill -TERM "$pid" 2>/dev/null
        left=$((grace * 20))
        while main "$folder" && [ "$left" -gt 0 ]; do sleep 0.05; left=$((left - 1)); done
    fi
    left=$((kill_wait * 20))
    while members=$(rest); [ -n "$members" ]; do
        [ "$left" -gt 0 ] || fail "processes of the node do not end"
        kill -KILL $members 2>/dev/null
        sleep 0.05
        left=$((left - 1))
    done
}

create() {
    enter
    if [ ! -d "$folder" ]; then
        set -- */*/
        [ -d "$1" ] || shift
        [ $# -lt "$room" ] || { answer full; exit 0; }
        mkdir -p "$folder" || fail "the folder $folder cannot be made"
    fi
    main "$folder" || { end; spawn; }
    answer done
}

start() {
    enter
    [ -d "$folder" ] || { answer missing; exit 0; }
    main "$folder" || { end; spawn; }
    answer done
}

stop() {
    enter
    [ -d "$folder" ] || { answer missing; exit 0; }
    end
    answer done
}

destroy() {
    enter
    [ -d "$folder" ] || { answer missing; exit 0; }
    end
    rm -rf "$folder" || fail "the folder $folder cannot be removed"
    answer done
}

list() {
    cd && cd "$state/$pool" 2>/dev/null || { answer done; exit 0; }
    for entry in */; do
        [ -d "$entry" ] || continue
        if main "$entry"; then answer "runs ${entry%/}"; else answer "down ${entry%/}"; fi
    done
    answer done
}
"""


def script(
    verb: str,
    *,
    state: str,
    pool: str,
    patience: float,
    launch: Launch | None = None,
    command: str = "",
    room: int = 1,
    grace: float = 0,
) -> str:
    """Return the script of one operation.

    Args:
        verb: create, start, stop, destroy or list.
        state: the folder of all nodes on a host, from the home directory or absolute.
        pool: the pool's name.
        patience: seconds to wait for another operation on the same host.
        launch: the node; none for `list`.
        command: what runs the agent.
        room: nodes that may be on a host.
        grace: seconds from SIGTERM to SIGKILL.
    """
    settings = {
        "state": state,
        "pool": pool,
        "node": launch.node if launch else "",
        "command": command,
        "room": str(room),
        "grace": str(math.ceil(grace)),
        "patience": str(math.ceil(patience)),
        "kill_wait": str(_KILL_WAIT),
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in launch.env().items()] if launch else [":"]
    # One pipe for all that is said: of two, the lines would come mixed.
    return "\n".join(
        ["run() {", "exec 2>&1", *lines, verb, "}", "variables() {", *exports, "}", _FUNCTIONS, "run; exit", ""]
    )
