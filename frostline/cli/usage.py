"""The errors of the command line, each with the exit code it ends the command with."""


class BadUsage(Exception):
    """What was typed cannot be done; the message is one sentence.  The command exits with 2."""


class CannotDo(Exception):
    """What was typed is right, but cannot be done here and now.  The command exits with 1."""
