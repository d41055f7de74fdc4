"""Market states: slots, indicators, pricing, validated blocks, archives."""
