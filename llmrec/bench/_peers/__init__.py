"""What benchmarks compare with, where it does not fit into the benchmark."""
