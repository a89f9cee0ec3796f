"""Discrete-event simulation of a pool: the real core, with the clock, the clients and the machines simulated."""
