"""What several replicas cost: reservations a second, and the latency of the bus."""
