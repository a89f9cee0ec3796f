"""The pure core: messages, sessions, nodes, pools. No clock, no socket, no randomness."""
