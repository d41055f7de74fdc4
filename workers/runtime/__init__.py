"""What every worker process runs on: its loop, logging, crash report, systemd notification."""
