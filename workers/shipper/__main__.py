"""Run the shipper alone."""

from workers.base import main

main("shipper")
