"""Run the replayer alone."""

from workers.base import main

main("replayer")
