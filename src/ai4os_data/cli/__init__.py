"""The command line: what a user runs without writing a script."""
