"""What can go wrong in the engine, as one tree.

    SluiceError
    ├── InvalidInput           the caller's value is malformed or not supported
    │   └── TooManyTokens      truncation was refused and the text does not fit
    ├── LimitExceeded          more items or bytes than one call may carry
    ├── ModelNotFound          no such name, version or stage
    ├── ArtifactRefused        a file is missing, altered or unknown; the manifest cannot be read
    ├── DeviceRefused          the device asked for is not there, or has no engine for this artifact
    ├── Overloaded             the queue is full or the deadline cannot be met; carries retry_after_s
    ├── NotReady               loading, warming up or draining
    ├── DeadlineExceeded       the deadline passed while the work was queued or running
    ├── Cancelled              the caller left
    └── BackendFailed          the backend raised on this very item

Which HTTP status each one becomes is decided in `serving/errors.py` and nowhere else.
Every message names the value, the limit and the fix.
"""

from __future__ import annotations


class SluiceError(Exception):
    """Base of every error that a caller may see. `code` is stable and machine-readable."""

    code = "internal"
    retryable = False

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidInput(SluiceError):
    code = "invalid_input"


class TooManyTokens(InvalidInput):
    code = "too_many_tokens"


class LimitExceeded(SluiceError):
    code = "limit_exceeded"


class ModelNotFound(SluiceError):
    code = "model_not_found"


class ArtifactRefused(SluiceError):
    code = "artifact_refused"


class DeviceRefused(SluiceError):
    code = "device_refused"


class Overloaded(SluiceError):
    """`retry_after_s` is when the queue is expected to have room, in seconds."""

    code = "overloaded"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s


class NotReady(SluiceError):
    code = "not_ready"
    retryable = True


class DeadlineExceeded(SluiceError):
    code = "deadline_exceeded"
    retryable = True


class Cancelled(SluiceError):
    code = "cancelled"


class BackendFailed(SluiceError):
    code = "backend_failed"
