"""What the benchmarks share: the report file and the description of the machine."""
