"""A bridge that shares its pools with others, through an engine: any socket may be at any replica.

The replica with a client's socket owns its session; the replica with a node's socket takes messages to it; one of them
all, the leader of a pool, decides what becomes of the pool's nodes.
"""
