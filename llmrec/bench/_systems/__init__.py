"""What the benchmarks of alignment and of decoding compare: ours, and the ways that users come from."""
