"""The node runtime: the agent that runs beside a model and is a WebRTC peer for each session."""
