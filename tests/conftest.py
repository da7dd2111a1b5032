"""What holds for all tests: a generated example may take its time, because the machine is shared."""

from hypothesis import settings

settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")
