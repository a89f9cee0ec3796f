"""Benchmark of the signaling relay: the bridge beside Node `ws` and PeerServer, under one load generator."""
