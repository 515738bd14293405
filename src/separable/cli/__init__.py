"""The command line, one command a file. In: words. Out: tables or JSON, files, an exit code."""

from separable.cli.program import main

__all__ = ["main"]
