"""The command line: every subcommand of `frostline`; `main.main` runs it."""
