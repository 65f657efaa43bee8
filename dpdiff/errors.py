"""The one exception that means: the input was wrong, not the program."""


class InputError(ValueError):
    """Bad input: the message says what was given, what is allowed and what to do next.

    The command line prints it as one line and exits with code 2.
    """
