"""The data that ships with the project, each folder with its licence and what was changed, and the script behind it."""
