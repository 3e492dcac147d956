"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A mistake in input, recipe or environment that the user can mend.

    The message is one line naming what, where and how to mend it. The command line prints it and
    exits with status 2; a Python caller can catch it.
    """
