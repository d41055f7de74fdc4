"""Run the broker alone."""

from workers.base import main

main("broker")
