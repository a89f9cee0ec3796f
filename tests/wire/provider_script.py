"""A provider's command: tells the test over a Unix socket what it was called for, and does as it is told."""

import json
import os
import socket
import sys

if __name__ == "__main__":
    path, name = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as there:
        there.connect(path)
        asked = {
            "name": name,
            "node": os.environ["RTCBRIDGE_NODE"],
            "pool": os.environ["RTCBRIDGE_POOL"],
            "token": os.environ["RTCBRIDGE_NODE_TOKEN"],
            "url": os.environ["RTCBRIDGE_URL"],
        }
        there.sendall(json.dumps(asked).encode() + b"\n")
        sys.exit(0 if there.recv(16) == b"accept\n" else 1)
