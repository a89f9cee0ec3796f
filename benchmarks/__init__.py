"""Benchmarks: `relay` for signaling, `media` for a stream from browser to node and back."""
