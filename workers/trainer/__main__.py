"""Run a trainer alone."""

from workers.base import main

main("trainer")
