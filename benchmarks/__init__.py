"""Measurements of speed and memory against other libraries; each module is a command."""
