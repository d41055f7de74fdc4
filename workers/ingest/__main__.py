"""Run ingest alone."""

from workers.runtime.process import main

main("ingest")
