"""Readers of recorded market data: files of a family to rows of TICK_DTYPE, in flat memory."""
