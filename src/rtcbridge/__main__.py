"""`python -m rtcbridge`: the same as the `rtcbridge` command."""

import sys

from rtcbridge.cli import main

if __name__ == "__main__":
    sys.exit(main())
