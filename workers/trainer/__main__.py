"""Run a trainer alone."""

from workers.runtime.process import main

main("trainer")
