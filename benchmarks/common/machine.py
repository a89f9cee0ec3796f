"""The machine in plain words, and the versions of what ran on it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import psutil


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _is_virtual() -> bool:
    return " hypervisor " in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def describe() -> str:
    """One line: cores, processor, memory, system."""
    cores = len(os.sched_getaffinity(0))
    kind = "a virtual machine" if _is_virtual() else "a machine"
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{kind} with {cores} cores of an {_processor()}, {memory:.0f} GiB of memory, "
        f"Linux {platform.release().split('-')[0]}"
    )


def program_version(*command: str) -> str:
    """What a program answers when it is asked for its version, e.g. `node --version`."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip().removeprefix("v")


def package_version(name: str) -> str:
    """The version of an installed Python package."""
    return metadata.version(name)
