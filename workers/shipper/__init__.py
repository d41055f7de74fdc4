"""Ships what trainers measured to MLflow, outside their processes."""
