"""The command `airpy`: one module per subcommand, each with add(commands) and run(args) -> exit code."""

from airpy.cli.main import main

__all__ = ["main"]
