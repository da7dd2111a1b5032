"""What makes data unfit to train on."""

from __future__ import annotations


class DataError(Exception):
    """The data is refused; the message says what is wrong, where, and which setting or edit helps."""
