"""Measure rawws beside the servers that its users would pick instead: run `python -m benchmarks --help`."""
