"""From message bytes to rows: schemas, plans, formats."""
