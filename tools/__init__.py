"""What the maintainers of the package run: its embedded data, made and looked at."""
