"""Policies as named arrays, run in NumPy."""
