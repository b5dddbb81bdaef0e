"""Fuzzing by coverage: what must hold for any bytes, and a fuzzer that looks for bytes for which it does not.

A target is a plain function of bytes that raises when a property is broken; it needs no fuzzer. `python -m
tests.fuzz run` lets atheris (libFuzzer) drive the targets, following the branches of rawws, wsproto and h11. What it
finds worth keeping is packed into `corpus/`, which tests/test_fuzz_corpus.py replays with every run of the suite.
"""
