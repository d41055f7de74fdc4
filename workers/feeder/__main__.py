"""Run the feeder alone."""

from workers.runtime.process import main

main("feeder")
