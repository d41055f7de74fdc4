/* A row of the ring `ticks` as C sees it: TICK_DTYPE of workers/contract/dtypes.py, which is its home.
 * A test compares the two field by field. */
#ifndef INGEST_TICK_H
#define INGEST_TICK_H

#include <stddef.h>
#include <stdint.h>

enum { TICK_SYMBOL_BYTES = 32 };

typedef struct {
    char symbol[TICK_SYMBOL_BYTES];
    int64_t ts_event, ts_recv, ts_ingest;
    double bid, ask, last, bid_size, ask_size;
    int64_t volume, open_interest;
    double implied_volatility, delta, gamma, vega, theta, rho, underlying_price;
    int64_t sequence, offset;
    int32_t partition, topic;
    uint32_t flags, source_flags;
    char venue[8];
} tick;
_Static_assert(sizeof(tick) == 208, "TICK_DTYPE has no padding");

/* What a hold replaces: everything from bid to underlying_price. */
#define TICK_HELD_AT offsetof(tick, bid)
#define TICK_HELD_BYTES (offsetof(tick, sequence) - offsetof(tick, bid))
_Static_assert(TICK_HELD_BYTES == 112, "fourteen numbers");

#endif
