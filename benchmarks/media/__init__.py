"""Media from a browser to a node and back: frames, latency, processor time, time to the first frame."""
