"""What a simulation is told of the world: durations, failures, prices, patience. Times in seconds, money in USD."""

import math
import random
from typing import TypeAlias

from msgspec import Struct

_HOUR = 3600.0


class Fixed(Struct, frozen=True, tag="fixed"):
    """Always the same."""

    value: float

    @property
    def mean(self) -> float:
        """The mean of the distribution."""
        return self.value

    def draw(self, random: random.Random) -> float:
        """Draw one value."""
        return self.value


class Uniform(Struct, frozen=True, tag="uniform"):
    """Any value between two is as likely."""

    low: float
    high: float

    @property
    def mean(self) -> float:
        """The mean of the distribution."""
        return (self.low + self.high) / 2

    def draw(self, random: random.Random) -> float:
        """Draw one value."""
        return random.uniform(self.low, self.high)


class Lognormal(Struct, frozen=True, tag="lognormal"):
    """Many short ones and a few long ones. `sigma` is the standard deviation of the logarithm."""

    mean: float
    sigma: float

    def draw(self, random: random.Random) -> float:
        """Draw one value."""
        return random.lognormvariate(math.log(self.mean) - self.sigma**2 / 2, self.sigma)


Distribution: TypeAlias = Fixed | Uniform | Lognormal


def distribution(text: str) -> Distribution:
    """Parse `40`, `20-60` (uniform) or `lognormal:480:1.1` (mean, sigma).

    Raises:
        ValueError: the text is none of them, or a number in it is out of range.
    """
    if text.startswith("lognormal:"):
        mean, sigma = (float(part) for part in text.removeprefix("lognormal:").split(":"))
        if not (0 < mean <= 1e7 and 0 <= sigma <= 5):
            raise ValueError(text)
        return Lognormal(mean, sigma)
    low, dash, high = text.partition("-")
    first, last = float(low), float(high if dash else low)
    if not 0 <= first <= last <= 1e7:
        raise ValueError(text)
    return Uniform(first, last) if dash else Fixed(first)


class World(Struct, frozen=True, kw_only=True):
    """What the policy cannot choose. The defaults are the reference scenario.

    Attributes:
        start: from the call that starts a stopped machine until its node is ready.
        create: the same for a new machine.
        stop: from the call that stops a machine until it is stopped; paid for.
        destroy: the same for its destruction; the disk is paid for.
        start_failures: the share of starts that the provider refuses, after `refusal` seconds.
        create_failures: the same of creations.
        running: USD an hour of a machine that runs.
        disk: USD an hour of a machine's disk, running or stopped.
        patience: the mean of the exponential time after which a waiting client leaves.
        connect: from the granted slot to the first frame.
    """

    start: Distribution = Uniform(20.0, 60.0)
    create: Distribution = Uniform(120.0, 600.0)
    stop: float = 30.0
    destroy: float = 30.0
    start_failures: float = 0.03
    create_failures: float = 0.0
    refusal: float = 10.0
    running: float = 1.006
    disk: float = 0.011
    patience: float = 180.0
    connect: float = 0.6

    def cost(self, running: float, disks: float) -> float:
        """USD for so many machine-seconds running, and disk-seconds."""
        return (running * self.running + disks * self.disk) / _HOUR
