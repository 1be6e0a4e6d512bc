"""The one exception that castmix raises for bad input."""

from __future__ import annotations


class CastmixError(ValueError):
    """Input that castmix cannot use.

    The message is one line: which file or value, what was expected, what to do.
    The command line prints it as ``castmix: <message>`` and exits with status 1, without a traceback.
    """
