"""The error of this room."""


class DataError(ValueError):
    """The data asked for cannot be had, or is not what it should be.

    The message is written for the person at the keyboard: what happened, then what to do about it. The
    command line prints it as it is and leaves with exit code 2.
    """
