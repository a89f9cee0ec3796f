"""Ending a program that a benchmark has started."""

import subprocess

STOP_TIMEOUT_S = 15


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end; kill it if it has not after `STOP_TIMEOUT_S` seconds."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
