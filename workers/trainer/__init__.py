"""TD3 on the experience in shared memory; the only home of torch besides the nursery."""
