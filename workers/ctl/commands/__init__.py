"""One command a file, a function a command; `workers.ctl.cli` holds the table of them."""
