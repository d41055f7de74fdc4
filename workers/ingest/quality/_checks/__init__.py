"""The C part of the quality gates."""
