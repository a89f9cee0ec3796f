"""Plays the transcripts of `protocol/vectors`, against any bridge of which no more is known than address and keys.

`vectors` reads them, `replay` plays one in a world, `sockets` is what a world of real bridges dials with, `foreign` is
the world of a bridge that is somebody else's, and `suite` chooses what can be played there and plays it.
"""

from rtcbridge.conformance.foreign import Target
from rtcbridge.conformance.suite import Outcome, Result, Suite, UnplayableError

__all__ = ["Outcome", "Result", "Suite", "Target", "UnplayableError"]
