/* Quality checks: one bit for each check that a row fails, and the memory of each symbol.
 *
 * (Their configuration key is `ingest.gates`.)
 *
 * The memory of a symbol holds what was seen of it last, twice: `now`, and `before` the batch that
 * wrote `now` last. It is written to the mesh before the batch is committed; after a kill between
 * the two the next ingest goes on from `before`, so that a restart changes no verdict.
 *
 * Nothing of a row changes but its flags, except under the policy `hold`, which sets the flag
 * HELD. A check whose input is absent (NaN) passes. */
#ifndef INGEST_CHECKS_H
#define INGEST_CHECKS_H

#include <math.h>
#include <string.h>

#include "tick.h"

enum check {
    CHECK_NONFINITE,
    CHECK_NEGATIVE,
    CHECK_CROSSED,
    CHECK_LOCKED,
    CHECK_ZERO_BID,
    CHECK_WIDE,
    CHECK_IV_RANGE,
    CHECK_GREEK_SIGN,
    CHECK_FUTURE,
    CHECK_BACKWARDS,
    CHECK_DUPLICATE,
    CHECK_JUMP,
    CHECK_STALE,
    CHECK_EXPIRED,
    CHECK_UNKNOWN,
    CHECK_COUNT,
};
#define CHECK_HELD (UINT32_C(1) << 31)

typedef struct {
    int64_t ts_event, sequence, volume;
    double bid, ask, last, bid_size, ask_size;
    double mid;                    /* the last one that both sides gave; NaN: none yet */
    int64_t seen;                  /* 0: nothing yet */
    int64_t good;                  /* 0: `held` holds nothing yet */
    uint8_t held[TICK_HELD_BYTES]; /* of the last row that was published as it came */
} check_past;

typedef struct {
    char symbol[TICK_SYMBOL_BYTES];
    int64_t expiry; /* ns; INT64_MAX: none */
    int32_t right;  /* +1 call, -1 put, 0 neither or not known */
    int32_t known;  /* 0: not among the configured symbols */
    int64_t batch;  /* number of the batch that wrote `now` last */
    check_past before, now;
} check_memory;

typedef struct {
    double wide_share, iv_max, jump_share;
    int64_t future_ns, stale_ns; /* stale_ns 0: that check is off */
    uint32_t hold, drop,
        dead_letter; /* bits of the checks with that policy; the others only flag */
} check_rules;

enum check_disposition { CHECK_PUBLISH, CHECK_DROP, CHECK_DEAD_LETTER };

typedef struct {
    check_memory *memory;
    uint32_t *index; /* hash table of row + 1; 0 is free */
    uint32_t index_mask, capacity, count;
    int64_t clock, leap; /* newest believable event time; a leap beyond it, not yet confirmed */
} check_state;

static inline uint64_t check_hash(const char *symbol) {
    uint64_t words[TICK_SYMBOL_BYTES / 8], h = UINT64_C(0x9e3779b97f4a7c15);
    memcpy(words, symbol, sizeof words);
    for (unsigned i = 0; i < TICK_SYMBOL_BYTES / 8; i++) {
        h = (h ^ words[i]) * UINT64_C(0xff51afd7ed558ccd);
        h ^= h >> 32;
    }
    return h;
}

/* The number of a symbol; `capacity` where it is new and there is no room. *is_new says it. */
static inline uint32_t check_find_symbol(check_state *s, const char *symbol, int *is_new) {
    *is_new = 0;
    for (uint64_t at = check_hash(symbol);; at++) {
        uint32_t *entry = &s->index[at & s->index_mask];
        if (*entry == 0) {
            if (s->count == s->capacity) return s->capacity;
            check_memory *m = &s->memory[s->count];
            memset(m, 0, sizeof *m);
            memcpy(m->symbol, symbol, TICK_SYMBOL_BYTES);
            m->expiry = INT64_MAX;
            m->known = 1;
            m->now.mid = m->before.mid = (double)NAN;
            *is_new = 1;
            *entry = ++s->count;
        }
        if (memcmp(s->memory[*entry - 1].symbol, symbol, TICK_SYMBOL_BYTES) == 0) return *entry - 1;
    }
}

static inline uint32_t check_bit(int is_failed, enum check check) {
    return (uint32_t)(is_failed != 0) << check;
}

/* Checks that need the row alone. */
static inline uint32_t check_row(const check_rules *r, const tick *t, double mid) {
    double sum = t->bid + t->ask + t->last + t->bid_size + t->ask_size + t->implied_volatility +
                 t->delta + t->gamma + t->vega + t->theta + t->rho + t->underlying_price;
    int infinite = 0;
    if (!isfinite(sum)) /* rare for a full row, and NaN says nothing yet */
        infinite = isinf(t->bid) || isinf(t->ask) || isinf(t->last) || isinf(t->bid_size) ||
                   isinf(t->ask_size) || isinf(t->implied_volatility) || isinf(t->delta) ||
                   isinf(t->gamma) || isinf(t->vega) || isinf(t->theta) || isinf(t->rho) ||
                   isinf(t->underlying_price);
    int priceless = isnan(t->bid) && isnan(t->ask) && isnan(t->last);
    return check_bit(infinite || priceless, CHECK_NONFINITE) |
           check_bit(t->bid < 0 || t->ask < 0 || t->last < 0 || t->volume < 0, CHECK_NEGATIVE) |
           check_bit(t->bid > t->ask, CHECK_CROSSED) | check_bit(t->bid == t->ask, CHECK_LOCKED) |
           check_bit(t->bid == 0, CHECK_ZERO_BID) |
           check_bit(t->ask - t->bid > r->wide_share * mid, CHECK_WIDE) |
           check_bit(t->implied_volatility < 0 || t->implied_volatility > r->iv_max,
                     CHECK_IV_RANGE);
}

static inline uint32_t check_symbol(const check_memory *m, const tick *t) {
    return check_bit(t->gamma < 0 || t->vega < 0 || t->delta * m->right < 0, CHECK_GREEK_SIGN) |
           check_bit(t->ts_event > m->expiry, CHECK_EXPIRED) | check_bit(!m->known, CHECK_UNKNOWN);
}

/* Against the last row of the same symbol. A duplicate is the same to the last bit (NaN too). */
static inline uint32_t check_against_last(const check_rules *r, const check_past *p, const tick *t,
                                          double mid) {
    if (!p->seen) return 0;
    int same = t->ts_event == p->ts_event && t->sequence == p->sequence && t->volume == p->volume &&
               memcmp(&t->bid, &p->bid, 5 * sizeof(double)) == 0;
    return check_bit(t->ts_event < p->ts_event, CHECK_BACKWARDS) |
           check_bit(same, CHECK_DUPLICATE) |
           check_bit(fabs(mid - p->mid) > r->jump_share * fabs(p->mid), CHECK_JUMP);
}

/* Stale: older than the publisher's receipt, or than the market's clock, by more than allowed.
 * The clock is the newest event time seen; one that leaps is believed once another one confirms
 * it, so that a single wrong clock does not make the whole market stale. */
static inline uint32_t check_time(check_state *s, const check_rules *r, const tick *t,
                                  int64_t now) {
    int64_t reference = t->ts_recv > 0 ? t->ts_recv : now;
    uint32_t bits = check_bit(t->ts_event - r->future_ns > reference, CHECK_FUTURE);
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
    return bits | check_bit(t->ts_event < reference - r->stale_ns, CHECK_STALE);
}

static inline void check_remember(check_past *p, const tick *t, double mid) {
    p->ts_event = t->ts_event;
    p->sequence = t->sequence;
    p->volume = t->volume;
    memcpy(&p->bid, &t->bid, 5 * sizeof(double));
    if (isfinite(mid)) p->mid = mid;
    p->seen = 1;
}

/* Replace the row's numbers by the last good ones of its symbol (absent where there are none). */
static inline void check_hold(const check_past *p, tick *t) {
    if (p->good) {
        memcpy((uint8_t *)t + TICK_HELD_AT, p->held, TICK_HELD_BYTES);
    } else {
        double *prices[] = {
            &t->bid,   &t->ask,   &t->last, &t->bid_size, &t->ask_size, &t->implied_volatility,
            &t->delta, &t->gamma, &t->vega, &t->theta,    &t->rho,      &t->underlying_price};
        for (unsigned i = 0; i < sizeof prices / sizeof *prices; i++) *prices[i] = (double)NAN;
        t->volume = t->open_interest = 0;
    }
    t->flags |= CHECK_HELD;
}

/* Check one row, in the order of the stream. `m` NULL: there is no room for its symbol. */
static inline enum check_disposition check_evaluate(check_state *s, const check_rules *r,
                                                    check_memory *m, tick *t, int64_t now) {
    double mid = 0.5 * (t->bid + t->ask);
    t->flags = check_row(r, t, mid) | check_time(s, r, t, now);
    if (m == NULL) {
        t->flags |= check_bit(1, CHECK_UNKNOWN);
    } else {
        t->flags |= check_symbol(m, t) | check_against_last(r, &m->now, t, mid);
        check_remember(&m->now, t, mid);
    }
    if (t->flags & r->dead_letter) return CHECK_DEAD_LETTER;
    if (t->flags & r->drop) return CHECK_DROP;
    if (m != NULL && (t->flags & r->hold)) {
        check_hold(&m->now, t);
    } else if (m != NULL) {
        memcpy(m->now.held, (const uint8_t *)t + TICK_HELD_AT, TICK_HELD_BYTES);
        m->now.good = 1;
    }
    return CHECK_PUBLISH;
}

#endif
