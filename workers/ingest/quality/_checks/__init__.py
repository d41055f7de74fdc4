"""The C part of the quality checks."""
