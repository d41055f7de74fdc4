"""The quality checks of market data, one flag bit each."""
