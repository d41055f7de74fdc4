/* mesh/_core/ring.h: intent, records, journal, and one compare-and-swap of (published, lease).
 *
 * Capacity 2, records and states of two words. Writer 1 may die between any two steps; writer 2
 * goes on from what it finds. Checked: a record that a reader keeps is the one of its sequence,
 * whole (I1, I5); a state that a reader accepts is whole and was committed with records that are
 * published (I5).
 *
 * SEED 1: no intent.  2: published before the records.  3: the state's number is used again.
 * SEED 4: the state's reader does not look whether it is (still) in force.  5: it looks at the
 * number first (a dead writer's state passes, and the next writer then turns the bit).
 */
#ifndef SEED
#define SEED 0
#endif
#define CAPACITY 2
byte published, intent, bit_in_force, epoch = 1;
byte one[CAPACITY], two[CAPACITY]; /* the record of sequence s holds s + 1, twice */
byte number[2], state_one[2], state_two[2];
bool dead;

inline publish(mine, count, value) {
  tail = published;
  next = tail + count;
#if SEED != 1
  if :: next > intent -> intent = next :: else fi;
#endif
#if SEED == 2
  atomic { if :: published == tail && epoch == mine -> published = next :: else fi };
#endif
  i = tail;
  do
  :: i < next -> one[i % CAPACITY] = i + 1; two[i % CAPACITY] = i + 1; i++
  :: else -> break
  od;
  entry = 1 - bit_in_force;
#if SEED == 3
  n = (number[bit_in_force] + 1) / 2 + 1;
#else
  n = number[0];
  if :: number[1] > n -> n = number[1] :: else fi;
  n = (n + 1) / 2 + 1;
#endif
  number[entry] = 2 * n - 1;
  state_one[entry] = value + next; state_two[entry] = value + next;
  number[entry] = 2 * n;
#if SEED != 2
  atomic {
    if
    :: published == tail && epoch == mine -> published = next; bit_in_force = entry
    :: else
    fi
  }
#else
  atomic { bit_in_force = entry }
#endif
}

proctype First() {
  byte tail, next, i, entry, n;
  { publish(1, 1, 0); publish(1, 2, 0) } unless { dead }
}

proctype Second() {
  byte tail, next, i, entry, n;
  dead;
  epoch = 2;
  publish(2, 1, 100);
  publish(2, 1, 100)
}

proctype Reader() { /* one pass; the cursor begins at 0, so what is overwritten is lost */
  byte cursor, tail, x, y, oldest, s, tries;
  do
  :: tries < 3 ->
    tries++;
    tail = published;
    oldest = (intent > CAPACITY -> intent - CAPACITY : 0);
    if :: cursor < oldest -> cursor = (oldest < tail -> oldest : tail) :: else fi;
    if
    :: cursor < tail ->
      s = cursor;
      x = one[s % CAPACITY]; y = two[s % CAPACITY];
      oldest = (intent > CAPACITY -> intent - CAPACITY : 0);
      if
      :: s >= oldest -> assert(x == s + 1); assert(y == s + 1); cursor = s + 1
      :: else -> cursor = oldest
      fi
    :: else
    fi
  :: else -> break
  od
}

proctype StateReader() {
  byte which, n, x, y, n2, now, total;
  which = bit_in_force;
  n = number[which];
  x = state_one[which]; y = state_two[which];
#if SEED == 4
  now = which;
  n2 = number[which];
#elif SEED == 5
  n2 = number[which];
  now = bit_in_force;
#else
  now = bit_in_force;
  n2 = number[which];
#endif
  if
  :: n > 0 && n % 2 == 0 && n2 == n && now == which ->
    assert(x == y);
    total = (x > 100 -> x - 100 : x);
    assert(total <= published)
  :: else
  fi
}

active proctype Death() { dead = true }
init { atomic { run First(); run Second();
#ifdef STATE
  run StateReader()
#else
  run Reader()
#endif
} }
