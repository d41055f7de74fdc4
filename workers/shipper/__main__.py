"""Run the shipper alone."""

from workers.runtime.process import main

main("shipper")
