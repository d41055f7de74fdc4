"""Policies scored on held-out markets."""
