"""The commands of `meshctl`, one function each; `workers.ctl.cli` holds their table."""
