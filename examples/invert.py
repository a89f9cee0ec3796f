"""The smallest model: a negative of the picture.

Run it beside a bridge: rtcbridge node invert.py:invert --bridge ws://127.0.0.1:8080 --key nk_…
"""

import rtcbridge


@rtcbridge.model
def invert(frame, params):
    """Return the negative; `frame` is RGB, uint8, (height, width, 3)."""
    return 255 - frame
