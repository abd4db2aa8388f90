"""The one exception that the command line turns into a message and exit code 1."""


class FastpartError(Exception):
    """Something the user can mend.

    The message names the file (or option), what was found, what was wanted and
    the way out, in that order, so that it can be acted on without a traceback.
    """
