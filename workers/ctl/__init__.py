"""The `meshctl` command: everything it shows is read from segments, the daemon dead or alive."""
