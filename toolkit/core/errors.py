"""The exception that castmix raises for bad input."""

from __future__ import annotations


class CastmixError(ValueError):
    """castmix cannot use an input.

    The message is one line: what is wrong, which file or value, what was expected, what to do.
    The command line prints it as ``castmix: <message>`` and exits with status 1, without a traceback.
    """
