"""Where market states come from: live, recorded, synthetic, or a user's own provider."""
