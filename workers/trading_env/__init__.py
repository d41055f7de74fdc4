"""The trading environment: a library that turns market states into accounts and observations."""
