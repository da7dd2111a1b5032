"""What can go wrong in this room.

InfraError            the command cannot go on; its message names the value and the fix
  TemplateFault       the template breaks a rule, or lacks what a rule looks at
  StackError          AWS refused, or a stack ended in a state that is not the one asked for
"""

from __future__ import annotations


class InfraError(Exception):
    """The command cannot go on."""


class TemplateFault(InfraError):
    """The template breaks a rule, or lacks what a rule looks at."""


class StackError(InfraError):
    """AWS refused, or a stack ended in a state that is not the one asked for."""
