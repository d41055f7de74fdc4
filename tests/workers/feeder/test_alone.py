"""A real feeder process: when acting is not safe, when data is old, when it is killed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.daemons import until
from tests.workers.feeder.feeders import feeder
from workers.contract.dtypes import EXPERIENCE_DTYPE, MARKET_DTYPE

pytestmark = pytest.mark.crash


def positions(records):
    """Positions as shares of the limit that frames show, (..., 10)."""
    return records["frame"][..., 1:11]


@pytest.mark.parametrize("safe_state", ["hold", "flatten"])
def test_what_portfolios_do_while_acting_is_not_safe(tmp_path, safe_state):
    """hold: positions stay as they were; flatten: they are sold. Both end with the reason."""
    with feeder(tmp_path, f'safe_state = "{safe_state}"') as one:
        segment = one.policy(0.5)
        until("acting", lambda: one.minutes(1) or one.status["acting_version"] == 1)
        one.minutes(2)
        before = positions(one.experience()[-1])
        assert np.abs(before).max() > 0.3
        one.safety("trainer quarantined")

        def is_holding():
            one.minutes(1)
            return "trainer quarantined" in one.status["state"]

        until("holding", is_holding)
        one.minutes(3)
        records = one.experience()
        rolled = one.market()["rolled"][-3:].any(0)
        after = positions(records[-1])
        if safe_state == "flatten":
            assert (after == 0.0).all()
            assert (records[-1]["action"] == 0.0).all()
        else:
            since = positions(records[-4])
            assert (after == since)[:, ~rolled].all()
            assert np.abs(after).max() > 0.3
        one.safety("")

        def acting():
            one.minutes(1)
            return one.status["state"] == "acting"

        until("acting again", acting)
        one.minutes(2)
        assert np.abs(positions(one.experience()[-1])).max() > 0.3
        segment.close()


def test_old_quotes_hold_and_market_time_is_what_counts(tmp_path):
    """Minutes within milliseconds are not stale; options silent for long in market time are."""
    with feeder(tmp_path) as one:
        one.minutes(5)
        assert not one.market()["stale"].any()
        assert (one.experience()["data_age_s"] < 60.0).all()
        spot = one.batches[one.at][:1].copy()
        for minute in range(8):
            before = one.states
            spot["ts_event"] = one.batches[one.at + minute]["ts_event"][0]
            one.ticks.publish(spot)
            if minute:
                until("a state", lambda before=before: one.states > before)
        until("holding", lambda: one.status["state"].startswith("holding: data is"))
        market, records = one.market(), one.experience()
        assert market["stale"][-1]
        assert records["data_age_s"][-1].min() > 300.0
        assert (positions(records[-1]) == positions(records[-2])).all()
        assert one.status["holds"] > 0


def test_lanes_explore_each_in_its_way(tmp_path):
    """Half of the lanes act as the policy says, the others with noise, and every record says so."""
    with feeder(tmp_path) as one:
        segment = one.policy(0.25)
        until("acting", lambda: one.minutes(1) or one.status["acting_version"] == 1)
        start = one.experience().shape[0]
        one.minutes(30)
        records = one.experience()[start:]
        assert (records["exploratory"] == [False, False, True, True]).all()
        greedy, noisy = records["action"][:, :2], records["action"][:, 2:]
        assert greedy == pytest.approx(0.25, abs=1e-6)
        deviation = noisy.std(axis=(0, 2))
        assert 0.02 < deviation[0] < deviation[1]
        assert np.abs(noisy).max() <= 1.0
        assert (records["policy_version"] == 1).all()
        assert (records["policy_trainer"] == b"td3-0").all()
        segment.publish({**segment.read()[1], "b1": np.full(10, np.arctanh(-0.5), np.float32)})
        until("newer", lambda: one.minutes(1) or one.status["acting_version"] == 2)
        newest = one.experience()[-1]
        assert newest["action"][:2] == pytest.approx(-0.5, abs=1e-6)
        assert (newest["policy_version"] == 2).all()
        segment.close()


def test_killed_feeder_goes_on_with_its_accounts(tmp_path):
    """Six kills at any moment: no market step missing, accounts as committed, indicators warm."""
    with feeder(tmp_path, "episode_steps = 100000") as one:
        segment = one.policy(0.5)
        one.minutes(30)
        for _ in range(6):
            for _ in range(3):
                one.minute()
            one.kill()
            committed = one.experience()[-1]
            one.start()
            one.minutes(2)
            records = one.experience()
            at = np.flatnonzero(records["market_step"][:, 0] == committed["market_step"][0])
            following = records[at[-1] + 1]
            assert (following["episode"] == committed["episode"]).all()
            assert (following["step"] == committed["step"] + 1).all()
        records, market = one.experience(), one.market()
        assert (np.diff(records["market_step"][:, 0]) == 1).all()
        assert (np.diff(market["step"]) == 1).all()
        assert records["first"].sum() == 4
        moved = np.diff(records["equity"], axis=0) / records["equity"][:-1]
        assert np.abs(moved).max() < 0.05
        # 20 states after the last kill the returns over 20 are those of the whole history
        logs = np.log(market["underlying"])
        wanted = np.clip(100 * (logs[60:] - logs[:-60]), -5, 5)
        assert market["indicators"][60:, 3] == pytest.approx(wanted, abs=1e-4)
        segment.close()


def test_a_market_state_without_experience_is_made_up_for(tmp_path):
    """Killed between the two rings: the lanes hold through the state they missed, none is lost."""
    with feeder(tmp_path, "episode_steps = 100000") as one:
        one.minutes(5)
        one.kill()
        market = one.mesh.ring("market", MARKET_DTYPE, capacity=4096, create=True)
        missed = one.market()[-1:].copy()
        missed["step"] += 1
        missed["ts_event"] += 1
        missed["rolled"] = False
        missed["previous_price"], missed["previous_half_spread"] = missed["price"], 0.0
        market.publish(missed)
        market.close()
        one.start()
        one.minutes(1)
        records = one.experience()
        assert (np.diff(records["market_step"][:, 0]) == 1).all()
        at = np.flatnonzero(records["market_step"][:, 0] == missed["step"][0])
        assert at.size == 1
        held = positions(records[at[0]])
        assert (held == positions(records[at[0] - 1])).all()
        assert (np.diff(one.market()["step"]) == 1).all()


def test_other_lanes_than_before_are_an_honest_new_episode(tmp_path):
    """A changed number of lanes cannot go on: an episode boundary is marked, numbers go up."""
    with feeder(tmp_path) as one:
        one.minutes(4)
        before = int(one.experience()["episode"].max())
        one.kill()
        text = one.profile.read_text().replace("lanes = 4", "lanes = 2")
        one.profile.write_text(text)
        one.start()
        one.minutes(1)
        ring = one.mesh.ring("experience", EXPERIENCE_DTYPE)
        records = ring.reader("oldest").read(max_records=ring.capacity)
        after = records[records["lanes"] == 2]
        assert after["first"][:2].all()
        assert (after["episode"] > before).all()
        assert after["equity"][:2].tolist() == [1_000_000.0] * 2


def test_a_clock_from_the_future_and_a_feed_that_begins_anew(tmp_path):
    """One message from the year 2096 changes nothing; a replay that starts again is followed."""
    with feeder(tmp_path) as one:
        one.minutes(3)
        poison = one.batches[one.at][3:4].copy()
        poison["ts_event"] = 4_000_000_000 * 10**9
        one.ticks.publish(poison)
        one.minutes(3)
        market = one.market()
        assert not market["stale"].any()
        assert market["age_s"].max() < 60.0
        newest, states = int(market["ts_event"][-1]), one.states
        shift = 10 * 86_400 * 10**9
        for batch in one.batches[one.at : one.at + 6]:
            earlier = batch.copy()
            earlier["ts_event"] -= shift
            one.ticks.publish(earlier)
        until("earlier states", lambda: one.states >= states + 5)
        market, records = one.market(), one.experience()
        assert (market["ts_event"][states:] < newest).all()
        assert (np.diff(market["step"]) == 1).all()
        assert records["first"][states].all()
        assert (records["equity"][states] == 1_000_000.0).all()
        assert not market["stale"][states:].any()
