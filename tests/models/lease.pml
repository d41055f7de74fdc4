/* mesh/_core/lease.h: the epoch selects the owner entry; a new owner is written to the other one.
 *
 * Three processes want the lease; each may die at any step, also while it takes it. They take turns
 * under the directory's file lock, which the kernel frees at a death. Checked: a reader sees an
 * owner that somebody is, pid and start time of one process (I3); never two live owners (I4); after
 * all of them died the lease can still be taken.
 *
 * SEED 1: the epoch before the entry.  2: the reader does not look again.  3: the owner's life is
 * judged before the file lock is held.
 */
#ifndef SEED
#define SEED 0
#endif
#define NOBODY 0
byte epoch, who[2], start[2];
byte flock; /* NOBODY, or who has it */
bool dead[4];
byte owner; /* ghost: the live process that was told it is the writer */

proctype Taker(byte me) {
  byte o;
  {
#if SEED == 3
    o = who[epoch & 1];
#endif
    atomic { flock == NOBODY -> flock = me };
#if SEED != 3
    o = who[epoch & 1];
#endif
    if
    :: o == NOBODY || dead[o] ->
#if SEED == 1
      epoch++;
      who[epoch & 1] = me;
      start[epoch & 1] = me;
#else
      who[(epoch + 1) & 1] = me;
      start[(epoch + 1) & 1] = me;
      epoch++;
#endif
      atomic { assert(owner == NOBODY || dead[owner]); owner = me }
    :: else
    fi;
    flock = NOBODY
  } unless { dead[me] }
}

proctype Death(byte whom) {
  if
  :: atomic { dead[whom] = true; if :: flock == whom -> flock = NOBODY :: else fi }
  :: skip
  fi
}

proctype Reader() {
  byte e, p, s, e2;
  e = epoch;
  p = who[e & 1];
  s = start[e & 1];
  e2 = epoch;
#if SEED == 2
  e2 = e;
#endif
  if
  :: e == e2 -> assert(p == s)
  :: else
  fi
}

init {
  atomic {
    run Taker(1); run Taker(2); run Taker(3); run Death(1); run Death(2); run Reader()
  }
}
