"""Everything once, for real: drives the other rooms through their commands and HTTP, as a user would. Imports none."""
