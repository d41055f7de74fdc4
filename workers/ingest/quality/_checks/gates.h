/* Quality gates: one bit a doubt, and the memory of each symbol that some of them need.
 *
 * The memory of a symbol holds what was seen of it last, twice: `now`, and `before` the batch that
 * wrote `now` last. It is written to the mesh before the batch is committed; after a kill between
 * the two the next ingest goes on from `before`, so that a restart changes no verdict.
 *
 * Rows are never changed but for their flags, and under the policy `hold`, which the flag HELD
 * says. A gate whose input is absent (NaN) has no doubt. */
#ifndef INGEST_GATES_H
#define INGEST_GATES_H

#include <math.h>
#include <string.h>

#include "tick.h"

enum gate {
    GATE_NONFINITE,
    GATE_NEGATIVE,
    GATE_CROSSED,
    GATE_LOCKED,
    GATE_ZERO_BID,
    GATE_WIDE,
    GATE_IV_RANGE,
    GATE_GREEK_SIGN,
    GATE_FUTURE,
    GATE_BACKWARDS,
    GATE_DUPLICATE,
    GATE_JUMP,
    GATE_STALE,
    GATE_EXPIRED,
    GATE_UNKNOWN,
    GATES,
};
#define GATE_HELD (UINT32_C(1) << 31)

typedef struct {
    int64_t ts_event, sequence, volume;
    double bid, ask, last, bid_size, ask_size;
    double mid;                    /* the last one that both sides gave; NaN: none yet */
    int64_t seen;                  /* 0: nothing yet */
    int64_t good;                  /* 0: `held` holds nothing yet */
    uint8_t held[TICK_HELD_BYTES]; /* of the last row that was published as it came */
} gate_past;

typedef struct {
    char symbol[SYMBOL_BYTES];
    int64_t expiry; /* ns; INT64_MAX: none */
    int32_t right;  /* +1 call, -1 put, 0 neither or not known */
    int32_t known;  /* 0: not among the configured symbols */
    int64_t batch;  /* number of the batch that wrote `now` last */
    gate_past before, now;
} gate_memory;

typedef struct {
    double wide_share, iv_max, jump_share;
    int64_t future_ns, stale_ns; /* stale_ns 0: that gate is off */
    uint32_t hold, drop, dead;   /* bits of the gates with that policy; the others only flag */
} gate_rules;

enum gate_fate { FATE_PUBLISH, FATE_DROP, FATE_DEAD };

typedef struct {
    gate_memory *memory;
    uint32_t *index; /* hash table of row + 1; 0 is free */
    uint32_t index_mask, capacity, count;
    int64_t clock, leap; /* newest believable event time; a leap beyond it, not yet confirmed */
} gate_state;

static inline uint64_t gate_hash(const char *symbol) {
    uint64_t words[SYMBOL_BYTES / 8], h = UINT64_C(0x9e3779b97f4a7c15);
    memcpy(words, symbol, sizeof words);
    for (unsigned i = 0; i < SYMBOL_BYTES / 8; i++) {
        h = (h ^ words[i]) * UINT64_C(0xff51afd7ed558ccd);
        h ^= h >> 32;
    }
    return h;
}

/* The number of a symbol; `capacity` where it is new and there is no room. *is_new says it. */
static inline uint32_t gate_find(gate_state *s, const char *symbol, int *is_new) {
    *is_new = 0;
    for (uint64_t at = gate_hash(symbol);; at++) {
        uint32_t *entry = &s->index[at & s->index_mask];
        if (*entry == 0) {
            if (s->count == s->capacity) return s->capacity;
            gate_memory *m = &s->memory[s->count];
            memset(m, 0, sizeof *m);
            memcpy(m->symbol, symbol, SYMBOL_BYTES);
            m->expiry = INT64_MAX;
            m->known = 1;
            m->now.mid = m->before.mid = (double)NAN;
            *is_new = 1;
            *entry = ++s->count;
        }
        if (memcmp(s->memory[*entry - 1].symbol, symbol, SYMBOL_BYTES) == 0) return *entry - 1;
    }
}

static inline uint32_t gate_bit(int doubt, enum gate gate) {
    return (uint32_t)(doubt != 0) << gate;
}

/* What can be seen from the row alone. */
static inline uint32_t gate_row(const gate_rules *r, const tick *t, double mid) {
    double sum = t->bid + t->ask + t->last + t->bid_size + t->ask_size + t->implied_volatility +
                 t->delta + t->gamma + t->vega + t->theta + t->rho + t->underlying_price;
    int infinite = 0;
    if (!isfinite(sum)) /* rare for a full row, and NaN says nothing yet */
        infinite = isinf(t->bid) || isinf(t->ask) || isinf(t->last) || isinf(t->bid_size) ||
                   isinf(t->ask_size) || isinf(t->implied_volatility) || isinf(t->delta) ||
                   isinf(t->gamma) || isinf(t->vega) || isinf(t->theta) || isinf(t->rho) ||
                   isinf(t->underlying_price);
    int priceless = isnan(t->bid) && isnan(t->ask) && isnan(t->last);
    return gate_bit(infinite || priceless, GATE_NONFINITE) |
           gate_bit(t->bid < 0 || t->ask < 0 || t->last < 0 || t->volume < 0, GATE_NEGATIVE) |
           gate_bit(t->bid > t->ask, GATE_CROSSED) | gate_bit(t->bid == t->ask, GATE_LOCKED) |
           gate_bit(t->bid == 0, GATE_ZERO_BID) |
           gate_bit(t->ask - t->bid > r->wide_share * mid, GATE_WIDE) |
           gate_bit(t->implied_volatility < 0 || t->implied_volatility > r->iv_max, GATE_IV_RANGE);
}

static inline uint32_t gate_symbol(const gate_memory *m, const tick *t) {
    return gate_bit(t->gamma < 0 || t->vega < 0 || t->delta * m->right < 0, GATE_GREEK_SIGN) |
           gate_bit(t->ts_event > m->expiry, GATE_EXPIRED) | gate_bit(!m->known, GATE_UNKNOWN);
}

/* Against the last row of the same symbol. A duplicate is the same to the last bit (NaN too). */
static inline uint32_t gate_before(const gate_rules *r, const gate_past *p, const tick *t,
                                   double mid) {
    if (!p->seen) return 0;
    int same = t->ts_event == p->ts_event && t->sequence == p->sequence && t->volume == p->volume &&
               memcmp(&t->bid, &p->bid, 5 * sizeof(double)) == 0;
    return gate_bit(t->ts_event < p->ts_event, GATE_BACKWARDS) | gate_bit(same, GATE_DUPLICATE) |
           gate_bit(fabs(mid - p->mid) > r->jump_share * fabs(p->mid), GATE_JUMP);
}

/* Stale: older than the publisher's receipt, or than the market's clock, by more than allowed.
 * The clock is the newest event time seen; one that leaps is believed once another one confirms
 * it, so that a single wrong clock does not make the whole market stale. */
static inline uint32_t gate_time(gate_state *s, const gate_rules *r, const tick *t, int64_t now) {
    int64_t reference = t->ts_recv > 0 ? t->ts_recv : now;
    uint32_t bits = gate_bit(t->ts_event - r->future_ns > reference, GATE_FUTURE);
    if (r->stale_ns == 0) return bits;
    if (t->ts_event > s->clock && bits == 0) {
        int near = s->clock == 0 || t->ts_event - s->clock <= r->stale_ns;
        int confirmed = t->ts_event >= s->leap ? t->ts_event - s->leap <= r->stale_ns
                                               : s->leap - t->ts_event <= r->stale_ns;
        if (near || confirmed)
            s->clock = t->ts_event;
        else
            s->leap = t->ts_event;
    }
    if (t->ts_recv <= 0) reference = s->clock;
    return bits | gate_bit(t->ts_event < reference - r->stale_ns, GATE_STALE);
}

static inline void gate_remember(gate_past *p, const tick *t, double mid) {
    p->ts_event = t->ts_event;
    p->sequence = t->sequence;
    p->volume = t->volume;
    memcpy(&p->bid, &t->bid, 5 * sizeof(double));
    if (isfinite(mid)) p->mid = mid;
    p->seen = 1;
}

/* Put the last good numbers of the symbol in the place of doubtful ones (absent where none were). */
static inline void gate_hold(const gate_past *p, tick *t) {
    if (p->good) {
        memcpy((uint8_t *)t + TICK_HELD_AT, p->held, TICK_HELD_BYTES);
    } else {
        double *prices[] = {
            &t->bid,   &t->ask,   &t->last, &t->bid_size, &t->ask_size, &t->implied_volatility,
            &t->delta, &t->gamma, &t->vega, &t->theta,    &t->rho,      &t->underlying_price};
        for (unsigned i = 0; i < sizeof prices / sizeof *prices; i++) *prices[i] = (double)NAN;
        t->volume = t->open_interest = 0;
    }
    t->flags |= GATE_HELD;
}

/* Judge one row in the order of the stream; gives its fate. `m` NULL: no room for the symbol. */
static inline enum gate_fate gate_judge(gate_state *s, const gate_rules *r, gate_memory *m, tick *t,
                                        int64_t now) {
    double mid = 0.5 * (t->bid + t->ask);
    t->flags = gate_row(r, t, mid) | gate_time(s, r, t, now);
    if (m == NULL) {
        t->flags |= gate_bit(1, GATE_UNKNOWN);
    } else {
        t->flags |= gate_symbol(m, t) | gate_before(r, &m->now, t, mid);
        gate_remember(&m->now, t, mid);
    }
    if (t->flags & r->dead) return FATE_DEAD;
    if (t->flags & r->drop) return FATE_DROP;
    if (m != NULL && (t->flags & r->hold)) {
        gate_hold(&m->now, t);
    } else if (m != NULL) {
        memcpy(m->now.held, (const uint8_t *)t + TICK_HELD_AT, TICK_HELD_BYTES);
        m->now.good = 1;
    }
    return FATE_PUBLISH;
}

#endif
