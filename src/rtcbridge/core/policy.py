"""How many slots to keep ready. Pure arithmetic."""

from math import ceil, sqrt


def target(demand: int, floor: int, beta: float = 0.0) -> int:
    """Return how many slots should be up for a demand of so many sessions, served and waiting.

    Square-root staffing (Halfin and Whitt 1981): demand + max(floor, beta * sqrt(demand)), rounded up.
    `floor` is the pool's `min_ready`.
    """
    return demand + max(floor, ceil(beta * sqrt(demand)))
