"""Benchmarks of speed and memory against other libraries; most modules are commands."""
