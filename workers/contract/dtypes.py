"""Record dtypes of the rings and tables that cross the mesh, and the dimensions they share.

Prices are in the quote currency of the instrument, sizes in contracts or shares, times are integer
nanoseconds since the Unix epoch (UTC) unless a name says otherwise, NaN means "absent".
"""

from __future__ import annotations

import numpy as np

WINDOW = 16
SLOTS = 10
GREEKS = 5  # delta, gamma, theta, vega, rho: in this order everywhere
INDICATORS = 20
FEATURES = 100

SYMBOL_BYTES = 32

# One market data message in the ring `ticks`, and the newest message of each instrument in the
# table `quotes`. (topic, partition, offset) record in the ring what has been consumed from Kafka.
TICK_DTYPE = np.dtype(
    [
        ("symbol", f"S{SYMBOL_BYTES}"),
        ("ts_event", "<i8"),  # exchange time, ns
        ("ts_recv", "<i8"),  # first receipt by the publisher, ns; 0 = unknown
        ("ts_ingest", "<i8"),  # when ingest published the row, ns (wall clock)
        ("bid", "<f8"),
        ("ask", "<f8"),
        ("last", "<f8"),
        ("bid_size", "<f8"),
        ("ask_size", "<f8"),
        ("volume", "<i8"),
        ("open_interest", "<i8"),
        ("implied_volatility", "<f8"),  # per year, 0.2 = 20 %
        ("delta", "<f8"),
        ("gamma", "<f8"),
        ("vega", "<f8"),  # per 1.00 of volatility
        ("theta", "<f8"),  # per year
        ("rho", "<f8"),  # per 1.00 of rate
        ("underlying_price", "<f8"),
        ("sequence", "<i8"),  # the publisher's own sequence number; -1 = unknown
        ("offset", "<i8"),  # Kafka offset
        ("partition", "<i4"),
        ("topic", "<i4"),  # index into the configured topics
        ("flags", "<u4"),  # quality gate bits, workers/ingest/quality/checks.py
        ("source_flags", "<u4"),  # flags as sent by the publisher
        ("venue", "S8"),
    ]
)

# The state of the market at one decision point of the feeder (ring `market`).
MARKET_DTYPE = np.dtype(
    [
        ("ts_event", "<i8"),  # newest exchange time used for the state, ns
        ("ts_published", "<i8"),  # wall clock, ns
        ("step", "<i8"),  # number of market states since the segment was created
        ("underlying", "<f8"),
        ("contract", f"S{SYMBOL_BYTES}", (SLOTS,)),  # empty = the slot has no contract
        ("strike", "<f8", (SLOTS,)),
        ("expiry", "<i8", (SLOTS,)),  # ns
        ("right", "<i1", (SLOTS,)),  # +1 call, -1 put, 0 empty
        ("bid", "<f8", (SLOTS,)),  # NaN = side absent
        ("ask", "<f8", (SLOTS,)),
        ("bid_size", "<f8", (SLOTS,)),
        ("ask_size", "<f8", (SLOTS,)),
        ("price", "<f8", (SLOTS,)),  # the mark used for valuation, always finite
        (
            "previous_price",
            "<f8",
            (SLOTS,),
        ),  # at a roll that of the replaced contract, else of this one
        ("previous_half_spread", "<f8", (SLOTS,)),  # of the same contract; 0 if it was settled
        ("rolled", "?", (SLOTS,)),  # the contract of the slot was replaced in this state
        ("tradeable", "?", (SLOTS,)),  # both sides quoted and fresh
        ("greeks", "<f8", (SLOTS, GREEKS)),
        ("implied_volatility", "<f8", (SLOTS,)),
        ("indicators", "<f4", (INDICATORS,)),
        ("age_s", "<f4"),  # market time since the newest quote used
        ("stale", "?"),  # too old to act on
        ("closed", "?"),  # the market is closed
    ],
    align=True,
)

# One step of one lane. A window of WINDOW frames is stacked from the records at sequence,
# sequence - lanes, sequence - 2 * lanes, ... of the same episode; the first frame of the
# episode fills what is missing. `frame` was observed *after* `action`: the transition of a
# record that is not `first` is
#   (window ending at sequence - lanes, action, reward, window ending at sequence, terminated).
# A `first` record starts an episode and has no action. Frames are stored once.
EXPERIENCE_DTYPE = np.dtype(
    [
        ("frame", "<f4", (FEATURES,)),
        ("action", "<f4", (SLOTS,)),
        ("reward", "<f4"),
        ("first", "?"),
        ("terminated", "?"),
        ("truncated", "?"),
        ("exploratory", "?"),
        ("lane", "<u4"),
        ("lanes", "<u4"),
        ("episode", "<i8"),  # unique per lane, increasing
        ("step", "<i8"),  # within the episode; 0 where first
        ("market_step", "<i8"),
        ("policy_version", "<i8"),  # 0 = acted without a policy (random)
        ("policy_trainer", "S16"),
        ("ts_event", "<i8"),
        ("ts_published", "<i8"),
        ("equity", "<f8"),
        ("data_age_s", "<f4"),
        ("policy_age_s", "<f4"),
    ],
    align=True,
)

# One event of the system; written by the daemon, read by meshctl (ring `events`).
EVENT_DTYPE = np.dtype(
    [
        ("ts", "<i8"),  # wall clock, ns
        ("kind", "S24"),
        ("severity", "S8"),  # info, warning, error
        ("worker", "S32"),
        ("pid", "<i4"),
        ("incident", "<i4"),
        ("value", "<f8"),
        ("text", "S256"),  # UTF-8, cut at a character boundary
    ],
    align=True,
)
