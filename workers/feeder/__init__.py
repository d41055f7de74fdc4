"""Quotes to market states to experience: the live trading environment."""
