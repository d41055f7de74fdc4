/* One step of one lane over market states: fills, costs, rolls, valuation, reward, frame.
 *
 * The maths of the trading environment has this one home; `portfolio.py` documents it, and
 * tests/workers/trading_env/plain.py says the same in plain Python, with which tests compare it.
 * Written in C because a step is some sixty operations on ten numbers: NumPy spends its time
 * between them. Without Python; `_kernel.c` binds it.
 *
 * A lane's account is a row of doubles (columns below); a block is a row of `row_t` a state.
 * Sums run in slot order, so that a lane gives the same bits in any batch.
 */
#ifndef TRADING_ENV_LANE_H
#define TRADING_ENV_LANE_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { SLOTS = 10, FEATURES = 100, WINDOW = 16, HISTORY = 2 * WINDOW, RETURNS = 20 };
enum { CASH, CARRY, EQUITY, PEAK, COSTS, TRADED, COUNT, POSITION, RETURN = POSITION + SLOTS };
enum { COLUMNS = RETURN + RETURNS };
enum { NO_QUOTE = 1, PARTIAL = 2, STALE = 4, CLOSED = 8, ROLLED = 16, HELD = 32 };

/* Of TradingConfig, in the order in which `simulation.py` writes them. */
typedef struct {
    double initial_balance, contract_limit, multiplier, cost_rate, spread_share, ruin_share;
    double risk_weight, drawdown_weight, drawdown_free, quadratic_risk, quadratic_cost;
    double balance_limit, linear_quadratic;
} rules_t;
enum { RULES = sizeof(rules_t) / sizeof(double) };

/* A market state as a step reads it, in one piece: lanes are at any rows, and what a step costs is
 * mostly the lines it has to fetch. flags: STALE and CLOSED; rolled: a bit a slot. ROW_DTYPE in
 * market/block.py. */
typedef struct {
    double price[SLOTS], half_spread[SLOTS], buy_limit[SLOTS], sell_limit[SLOTS];
    double previous_price[SLOTS], previous_half_spread[SLOTS];
    int64_t ts_event;
    uint16_t rolled;
    uint8_t flags, unused[5];
    float features[FEATURES];
} row_t;
_Static_assert(sizeof(row_t) == 896, "the layout of ROW_DTYPE");
_Static_assert(offsetof(row_t, features) == 496, "the layout of ROW_DTYPE");

typedef struct {
    const row_t *rows;
    ptrdiff_t count;
} block_t;

/* Accounts (n, COLUMNS), orders under way (n, latency, 10), frames (n, HISTORY, 100), steps.
 * Every frame is there twice, WINDOW columns apart: the newest WINDOW frames are always in a row. */
typedef struct {
    double *memory, *pending;
    float *frames;
    int64_t *steps;
    ptrdiff_t lanes, latency;
    rules_t rules;
} lanes_t;

/* Shares of the limit (n, 10) that are wanted; lanes that begin anew, lanes whose data ends at
 * `then` (both (n) or NULL); steps after which an episode is over (0: none); nobody wants anything. */
typedef struct {
    const void *actions;
    const uint8_t *fresh, *data_ends;
    int64_t step_limit;
    bool is_double, hold;
} wish_t;

typedef struct {
    double *reward, *change, *costs, *swept, *cash, *equity;
    int64_t *steps, *ts_event;
    uint8_t *ruined, *truncated, *ended, *reasons;
    bool any_ended;
    ptrdiff_t broken; /* a lane whose account is not finite; -1 */
} outputs_t;

static double clip(double value, double limit) {
    return value < -limit ? -limit : value > limit ? limit : value;
}

/* Sum of 20 numbers in five parallel chains: a single chain waits for each addition. */
static double sum_returns(const double *x) {
    double s[5] = {x[0], x[1], x[2], x[3], x[4]};
    for (int i = 5; i < RETURNS; i += 5) {
        for (int k = 0; k < 5; k++) {
            s[k] += x[i + k];
        }
    }
    return ((s[0] + s[1]) + (s[2] + s[3])) + s[4];
}

/* Return - risk_weight * deviation of the last 20 - drawdown_weight * excess drawdown. */
static double risk_adjusted(double *account, double value, const rules_t *rules) {
    double equity = account[EQUITY];
    double gained = equity > 0.0 ? (value - equity) / equity : 0.0;
    if (value > account[PEAK]) {
        account[PEAK] = value;
    }
    int64_t count = (int64_t)account[COUNT];
    double *returns = account + RETURN;
    returns[count % RETURNS] = gained;
    account[COUNT] += 1.0;
    int seen = count + 1 < RETURNS ? (int)count + 1 : RETURNS;
    /* what has not happened yet is 0 in the ring: no matter for the sum, masked below */
    double mean = sum_returns(returns) / seen;
    double squares[RETURNS];
    for (int i = 0; i < RETURNS; i++) {
        double off = i < seen ? returns[i] - mean : 0.0;
        squares[i] = off * off;
    }
    double risk = sqrt(sum_returns(squares) / seen);
    double excess = (account[PEAK] - value) / account[PEAK] - rules->drawdown_free;
    return gained - rules->risk_weight * risk -
           rules->drawdown_weight * (excess > 0.0 ? excess : 0.0);
}

static void write_account(float *frame, const double *account, const rules_t *rules) {
    frame[0] = (float)clip(account[CASH] / rules->initial_balance, rules->balance_limit);
    double share = 1.0 / rules->contract_limit;
    for (int j = 0; j < SLOTS; j++) {
        frame[1 + j] = (float)(account[POSITION + j] * share);
    }
}

/* A new episode of a lane: a fresh account, a window of its first frame. */
static void start_lane(lanes_t *self, ptrdiff_t lane, const float *features) {
    double *account = self->memory + lane * COLUMNS;
    memset(account, 0, COLUMNS * sizeof(double));
    account[CASH] = account[EQUITY] = account[PEAK] = self->rules.initial_balance;
    memset(self->pending + lane * self->latency * SLOTS, 0,
           (size_t)(self->latency * SLOTS) * sizeof(double));
    self->steps[lane] = 0;
    float *first = self->frames + lane * HISTORY * FEATURES;
    memcpy(first, features, FEATURES * sizeof(float));
    write_account(first, account, &self->rules);
    for (int k = 1; k < HISTORY; k++) {
        memcpy(first + k * FEATURES, first, FEATURES * sizeof(float));
    }
}

/* Add to cash; what rounding cut off is carried to the next time (Kahan 1965). */
static void settle(double *account, double amount) {
    double wanted = amount + account[CARRY];
    double total = account[CASH] + wanted;
    account[CARRY] = wanted - (total - account[CASH]);
    account[CASH] = total;
}

/* The orders that are due now; `targets` join the queue. */
static void delay(double *targets, double *queue, ptrdiff_t latency) {
    if (latency == 0) {
        return;
    }
    double due[SLOTS];
    memcpy(due, queue, sizeof due);
    memmove(queue, queue + SLOTS, (size_t)((latency - 1) * SLOTS) * sizeof(double));
    memcpy(queue + (latency - 1) * SLOTS, targets, sizeof due);
    memcpy(targets, due, sizeof due);
}

/* Fill `targets` at row `now`, move to row `then`. False when the account is not finite. */
static bool move_lane(lanes_t *self, const block_t *block, ptrdiff_t lane, ptrdiff_t now,
                      ptrdiff_t then, double *targets, outputs_t *out) {
    const rules_t *rules = &self->rules;
    double *account = self->memory + lane * COLUMNS, *position = account + POSITION;
    double *queue = self->pending + lane * self->latency * SLOTS;
    const row_t *here = block->rows + now, *there = block->rows + then;
    double *change = out->change + lane * SLOTS;
    uint8_t *reasons = out->reasons + lane * SLOTS;
    double costs = 0.0, spent = 0.0, volume = 0.0, swept = 0.0, worth = 0.0;
    double closing = 0.0, proceeds = 0.0, held_squared = 0.0, moved_squared = 0.0;

    delay(targets, queue, self->latency);
    for (int j = 0; j < SLOTS; j++) {
        bool idle = isnan(targets[j]);
        double wanted = idle ? 0.0 : targets[j] - position[j];
        double done = wanted > here->buy_limit[j] ? here->buy_limit[j] : wanted;
        done = done < -here->sell_limit[j] ? -here->sell_limit[j] : done;
        reasons[j] = idle ? HELD : 0;
        if (done != wanted) {
            double limit = wanted > 0.0 ? here->buy_limit[j] : here->sell_limit[j];
            unsigned why = limit > 0.0 ? PARTIAL : NO_QUOTE;
            reasons[j] |= (uint8_t)(why | here->flags);
        }
        change[j] = done;
        double size = fabs(done), price = here->price[j];
        costs += size * (price * rules->cost_rate + here->half_spread[j] * rules->spread_share);
        spent += done * price;
        volume += size;
        position[j] += done;
        held_squared += position[j] * position[j];
        moved_squared += done * done;
        double after = there->price[j];
        bool rolled = there->rolled >> j & 1;
        if (rolled) {
            after = there->previous_price[j];
            reasons[j] |= ROLLED;
        }
        swept += position[j] * (after - price);
        if (rolled) {
            double closed = fabs(position[j]);
            closing += closed * (after * rules->cost_rate +
                                 there->previous_half_spread[j] * rules->spread_share);
            proceeds += position[j] * after;
            volume += closed;
            position[j] = 0.0;
            for (ptrdiff_t k = 0; k < self->latency; k++) {
                queue[k * SLOTS + j] = 0.0; /* an order for the contract that left is cancelled */
            }
        }
        worth += position[j] * there->price[j];
    }
    costs = (costs + closing) * rules->multiplier;
    swept *= rules->multiplier;
    settle(account, (proceeds - spent) * rules->multiplier - costs);
    double value = account[CASH] + worth * rules->multiplier;
    if (rules->linear_quadratic != 0.0) {
        double limit = rules->contract_limit;
        out->reward[lane] = swept / (limit * rules->multiplier) -
                            0.5 * rules->quadratic_risk * held_squared / (limit * limit) -
                            0.5 * rules->quadratic_cost * moved_squared / (limit * limit);
    } else {
        out->reward[lane] = risk_adjusted(account, value, rules);
    }
    account[EQUITY] = value;
    account[COSTS] += costs;
    account[TRADED] += volume;
    out->costs[lane] = costs;
    out->swept[lane] = swept;
    out->ruined[lane] = value <= rules->ruin_share * rules->initial_balance;
    return isfinite(value) && isfinite(out->reward[lane]);
}

enum { AHEAD = 3 }; /* lanes: some 300 ns, as long as a line from memory takes */

/* Fetch what a lane is about to read, and the lines of the frames it is about to write. Inline: gcc
 * drops calls of functions that do nothing but prefetch. */
static inline __attribute__((always_inline)) void fetch_lane(const lanes_t *self,
                                                             const block_t *block, ptrdiff_t lane,
                                                             ptrdiff_t now, ptrdiff_t then,
                                                             ptrdiff_t newest) {
    const char *here = (const char *)(block->rows + now);
    const char *there = (const char *)(block->rows + then);
    const char *frame = (const char *)(self->frames + (lane * HISTORY + newest) * FEATURES);
    const char *twin = frame - WINDOW * FEATURES * sizeof(float);
    for (size_t line = 0; line < offsetof(row_t, previous_price); line += 64) {
        __builtin_prefetch(here + line);
    }
    for (size_t line = 0; line < sizeof(row_t); line += 64) {
        __builtin_prefetch(there + line);
    }
    for (size_t line = 0; line < FEATURES * sizeof(float); line += 64) {
        __builtin_prefetch(frame + line, 1);
        __builtin_prefetch(twin + line, 1);
    }
}

/* A lane whose episode ended before this step: a new one begins at row `then`, nothing is done. */
static void restart_lane(lanes_t *self, const row_t *there, ptrdiff_t lane, outputs_t *out) {
    start_lane(self, lane, there->features);
    out->reward[lane] = out->costs[lane] = out->swept[lane] = 0.0;
    out->ruined[lane] = 0;
    memset(out->change + lane * SLOTS, 0, SLOTS * sizeof(double));
    memset(out->reasons + lane * SLOTS, 0, SLOTS);
}

/* The first lane whose action is not finite; -1 when all are. */
static ptrdiff_t unsound_lane(const void *actions, bool is_double, ptrdiff_t lanes) {
    int broken = 0;
    ptrdiff_t count = lanes * SLOTS;
    for (ptrdiff_t k = 0; is_double && k < count; k++) {
        broken |= !isfinite(((const double *)actions)[k]);
    }
    for (ptrdiff_t k = 0; !is_double && k < count; k++) {
        broken |= !isfinite(((const float *)actions)[k]);
    }
    for (ptrdiff_t k = 0; broken && k < count; k++) {
        if (!isfinite(is_double ? ((const double *)actions)[k] : ((const float *)actions)[k])) {
            return k / SLOTS;
        }
    }
    return -1;
}

/* Targets of a lane in contracts; all NaN where it holds, as it does with one that is no number. */
static void targets_of(const lanes_t *self, const wish_t *wish, ptrdiff_t lane, double *targets) {
    bool holds = wish->hold;
    for (int j = 0; j < SLOTS; j++) {
        ptrdiff_t at = lane * SLOTS + j;
        double share = wish->is_double ? ((const double *)wish->actions)[at]
                                       : ((const float *)wish->actions)[at];
        holds = holds || !isfinite(share);
        targets[j] = clip(share, 1.0) * self->rules.contract_limit;
    }
    for (int j = 0; holds && j < SLOTS; j++) {
        targets[j] = NAN;
    }
}

/* Whether the episode of a lane is over, and its account, as the outputs say it. */
static void write_outputs(const lanes_t *self, const row_t *there, ptrdiff_t lane,
                          const wish_t *wish, bool fresh, outputs_t *out) {
    const double *account = self->memory + lane * COLUMNS;
    int64_t steps = self->steps[lane];
    bool over = (wish->data_ends != NULL && wish->data_ends[lane]) ||
                (wish->step_limit > 0 && steps >= wish->step_limit);
    bool ruined = out->ruined[lane], truncated = over && !ruined && !fresh;
    out->truncated[lane] = truncated;
    out->ended[lane] = ruined || truncated;
    out->any_ended = out->any_ended || ruined || truncated;
    out->cash[lane] = account[CASH];
    out->equity[lane] = account[EQUITY];
    out->steps[lane] = steps;
    out->ts_event[lane] = there->ts_event;
}

/* One step of all lanes from rows `now` to rows `then`. */
static void step_lanes(lanes_t *self, const block_t *block, const int64_t *now, const int64_t *then,
                       const wish_t *wish, ptrdiff_t newest, outputs_t *out) {
    out->any_ended = false;
    out->broken = -1;
    for (ptrdiff_t lane = 0; lane < self->lanes; lane++) {
        if (lane + AHEAD < self->lanes) {
            fetch_lane(self, block, lane + AHEAD, now[lane + AHEAD], then[lane + AHEAD], newest);
        }
        const row_t *there = block->rows + then[lane];
        bool fresh = wish->fresh != NULL && wish->fresh[lane];
        if (fresh) {
            restart_lane(self, there, lane, out);
        } else {
            double targets[SLOTS];
            targets_of(self, wish, lane, targets);
            if (!move_lane(self, block, lane, now[lane], then[lane], targets, out)) {
                out->broken = lane;
            }
            self->steps[lane]++;
            float *frame = self->frames + (lane * HISTORY + newest) * FEATURES;
            memcpy(frame, there->features, FEATURES * sizeof(float));
            write_account(frame, self->memory + lane * COLUMNS, &self->rules);
            memcpy(frame - WINDOW * FEATURES, frame, FEATURES * sizeof(float));
        }
        write_outputs(self, there, lane, wish, fresh, out);
    }
}

#endif
