"""What the entry points of this package's own providers name: each makes the provider of one pool.

A provider's module is imported only when a pool names it: most stand on something that is an extra of this package.
"""

from rtcbridge.config import Pool
from rtcbridge.ports import Provider


def static(pool: Pool) -> Provider:
    """Nodes that dial in on their own."""
    from rtcbridge.drivers.providers.static import StaticProvider

    return StaticProvider()


def local(pool: Pool) -> Provider:
    """Processes on this machine."""
    from rtcbridge.drivers.providers.local import LocalProvider

    return LocalProvider(pool.name, pool.local, slots=pool.slots)


def command(pool: Pool) -> Provider:
    """Whatever four shell commands make."""
    from rtcbridge.drivers.providers.command import CommandProvider

    return CommandProvider(pool.command)


def ssh(pool: Pool) -> Provider:
    """Processes on fixed hosts; the extra `ssh`."""
    from rtcbridge.drivers.providers.ssh import SshProvider

    return SshProvider(pool.name, pool.ssh)


def docker(pool: Pool) -> Provider:
    """Containers; the extra `docker`."""
    from rtcbridge.drivers.providers.docker import DockerProvider

    return DockerProvider(pool.name, pool.docker)


def ec2(pool: Pool) -> Provider:
    """Machines of Amazon EC2; the extra `ec2`."""
    from rtcbridge.drivers.providers.ec2 import Ec2Provider

    return Ec2Provider(pool.name, pool.ec2)


def kubernetes(pool: Pool) -> Provider:
    """Pods of a Kubernetes cluster; the extra `kubernetes`."""
    from rtcbridge.drivers.providers.kubernetes import KubernetesProvider

    return KubernetesProvider(pool.name, pool.kubernetes)
