/* mesh/_core/spinlock.h: owner word = (epoch, entry), breaking by compare-and-swap of that word.
 *
 * Two processes take the lock through entries 0 and 1; the one of entry 0 may die in it, and a
 * later process claims its entry once it does not own the word. Two breakers judge and break.
 * Checked: never two live processes in the lock; only a dead owner's lock is broken (I3).
 *
 * SEED 1: the breaker stores instead of comparing.  2: it breaks by age, the owner's life unasked.
 * SEED 3: the word has no epoch.
 */
#ifndef SEED
#define SEED 0
#endif
#define FREE 9
byte epoch, owner = FREE;
bool alive[2] = true;
byte inside; /* ghost: live processes in the lock */

inline acquire(me) {
  do
  :: atomic { owner == FREE -> owner = me; inside++; assert(inside == 1); break }
  od
}
inline release(mine, e) {
  atomic {
    inside--;
    if
#if SEED == 3
    :: owner == mine -> owner = FREE
#else
    :: owner == mine && epoch == e -> owner = FREE; epoch++
#endif
    :: else
    fi
  }
}

proctype Mortal() {
  byte e;
  acquire(0);
  e = epoch;
  if
  :: atomic { alive[0] = false; inside-- } /* killed while it holds the lock */
  :: release(0, e)
  fi
}

/* Another process through the same entry: claimed when the former one is dead and not the owner. */
proctype Newcomer() {
  byte e;
  atomic { !alive[0] && owner != 0 -> alive[0] = true }
  acquire(0);
  e = epoch;
  release(0, e)
}

proctype Steady() {
  byte e;
  acquire(1);
  e = epoch;
  release(1, e)
}

proctype Breaker() {
  byte o, e;
  bool judged_dead;
  atomic { o = owner; e = epoch }
  if
  :: o != FREE ->
#if SEED == 2
    judged_dead = true;
#else
    judged_dead = !alive[o];
#endif
    if
    :: judged_dead ->
#if SEED == 1
      atomic { assert(owner == FREE || !alive[owner]); owner = FREE; epoch++ }
#elif SEED == 3
      atomic { if :: owner == o -> assert(!alive[owner]); owner = FREE :: else fi }
#else
      atomic {
        if
        :: owner == o && epoch == e -> assert(!alive[owner]); owner = FREE; epoch++
        :: else
        fi
      }
#endif
    :: else
    fi
  :: else
  fi
}

init { atomic { run Mortal(); run Newcomer(); run Steady(); run Breaker(); run Breaker() } }
