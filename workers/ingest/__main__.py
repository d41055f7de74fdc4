"""Run ingest alone."""

from workers.base import main

main("ingest")
