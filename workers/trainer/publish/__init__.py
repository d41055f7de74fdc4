"""Policies on their way to those who act: publisher and leaderboard."""
