"""Benchmarks behind ``foreshock bench``: paired, reported as ratios, never run as tests."""
