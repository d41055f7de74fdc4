"""What the daemon is made of: state machine, executor, fork server, adoption, control server."""
