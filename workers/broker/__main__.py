"""Run the broker alone."""

from workers.runtime.process import main

main("broker")
