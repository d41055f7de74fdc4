/* mesh/_core/seqlock.h and lease.h: two slots behind one (published, lease) pair, two-word values.
 *
 * Writer 1 may die between any two steps (DEATH) or live on after its lease was taken (FENCE);
 * writer 2 takes the lease and goes on. Checked: what a reader accepts was committed whole (I1); a
 * reader that no live writer disturbs is never refused (I2); nothing is committed under a lease
 * that was taken (I3). Memory is sequentially consistent here; orders: test_memory_model.py.
 *
 * SEED 1: one slot.  2: payload before the odd mark.  3: the reader does not look again.
 * SEED 4: the lease is checked, then stored (FENCE).
 */
#ifndef SEED
#define SEED 0
#endif
#if SEED == 1
#define SLOT(v) 0
#else
#define SLOT(v) ((v) & 1)
#endif
byte published, epoch = 1;
byte seq[2], first[2], second[2];
byte committed[8]; /* ghost: the value that was committed as version v */
byte writing;      /* ghost: live writers inside a write */
byte begun;        /* ghost: writes begun */
bool dead, taken;

inline write(mine, value) {
  v = published + 1;
  s = SLOT(v);
  if
  :: epoch == mine ->
#if SEED == 2
    first[s] = value; seq[s] = 2 * v - 1;
#else
    seq[s] = 2 * v - 1; first[s] = value;
#endif
    second[s] = value;
    seq[s] = 2 * v;
#if SEED == 4
    if
    :: epoch == mine ->
      atomic { assert(epoch == mine); published = v; committed[v] = value }
    :: else
    fi
#else
    atomic {
      if
      :: published == v - 1 && epoch == mine -> published = v; committed[v] = value
      :: else
      fi
    }
#endif
  :: else
  fi
}

proctype First() {
  byte v, s;
  { atomic { writing++; begun++ } write(1, 11); atomic { writing--; writing++; begun++ } write(1, 12); writing-- }
  unless { dead };
}

proctype Second() {
  byte v, s, e;
#ifdef FENCE
  skip;
#else
  dead;
  writing = 0;
#endif
  /* the next owner: one compare-and-swap of the pair */
  atomic { e = epoch; epoch = e + 1; taken = true }
#ifndef FENCE
  atomic { writing++; begun++ } write(2, 21);
  atomic { writing--; writing++; begun++ } write(2, 22);
  writing--
#endif
}

proctype Reader() {
  byte v, s, q, x, y, q2, tries, start; bool quiet;
  do
  :: tries < 2 ->
    tries++;
    atomic { quiet = (writing == 0 || dead) && published > 0; start = begun }
    v = published;
    s = SLOT(v);
    q = seq[s]; x = first[s]; y = second[s]; q2 = seq[s];
#if SEED == 3
    q2 = q;
#endif
    if
    :: v > 0 && q == 2 * v && q2 == q -> assert(x == y); assert(x == committed[v])
    :: else -> assert(!(quiet && begun == start && published == v))
    fi
  :: else -> break
  od
}

#ifndef FENCE
active proctype Death() { dead = true }
#endif
init { atomic { run First(); run Second(); run Reader() } }
