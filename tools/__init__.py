"""Maintenance commands: they make and inspect the data embedded in the package."""
