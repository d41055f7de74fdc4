"""Run the replayer alone."""

from workers.runtime.process import main

main("replayer")
