"""One command a file, a function a command; `mesh.ctl.cli` holds the table of them."""
