"""What a learner is restored from: shared memory, checkpoints, model files."""
