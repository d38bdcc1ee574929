"""The exceptions of the command line, one for each exit code of a failed command."""


class BadUsage(Exception):
    """The command was used wrongly. The message is one sentence, and the exit code is 2."""


class CannotDo(Exception):
    """The command was used correctly but failed. The message is one sentence, and the exit code is 1."""
