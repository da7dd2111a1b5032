"""What can stop a load test, each with the exit code that it ends the command with.

LoadTestError
├── UsageError        2  a wrong argument, file or key
├── ServerNotReady    3  nobody answers, or the server says that it is not ready
└── GeneratorFault   70  the load generator itself broke
"""


class LoadTestError(Exception):
    """The run cannot start or cannot be judged; the message names the value, the limit and the fix."""

    exit_code = 2


class UsageError(LoadTestError):
    """An argument, a file or a key that the user must change."""

    exit_code = 2


class ServerNotReady(LoadTestError):
    """The server cannot be reached, is not ready, or answered none of the requests."""

    exit_code = 3


class GeneratorFault(LoadTestError):
    """A simulated user raised what it should not: a fault of the load generator, not of the server."""

    exit_code = 70
