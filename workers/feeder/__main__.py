"""Run the feeder alone."""

from workers.base import main

main("feeder")
