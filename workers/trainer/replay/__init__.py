"""Transitions sampled from experience."""
