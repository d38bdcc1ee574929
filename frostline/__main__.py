"""`python -m frostline` is the `frostline` command."""

from frostline.cli.main import main

main()
