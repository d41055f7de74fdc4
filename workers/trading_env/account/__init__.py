"""What a lane owns: fills, portfolio, observation."""
