/*
 * VIRTIO_BLK_F_CANCEL: a model of the protocol
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A driver and a device with QUEUES virtqueues, on a storage that may finish
 * an operation at any time or never.  The driver makes up to REQUESTS reads
 * and writes available, all of the same sector, with two tags for each
 * virtqueue, sends up to CANCELS CANCELs, and resets the device or a virtqueue
 * up to RESETS times, in any order.
 * spin visits every state that can be reached.
 *
 * Both sides do whatever the rules leave open, and nothing that they forbid.
 * So the device is the weakest that conforms: it delays a request only for a
 * residual operation whose request the driver has seen used, it can refuse
 * anything, it can go on with a residual operation after a first attempt, and
 * it accesses buffers for as long as it may.  A device that does better has
 * some of the same runs.
 * Each rule can be taken out with -DWITHOUT_<rule>; spin then finds a run in
 * which a property is broken.  "check" knows which one, and shows the run.
 *
 * Every action happens a bounded number of times, so every run ends, and
 * "sooner or later" can be checked at its end: quiet() stops the driver and
 * the storage at any point, and the monitor looks at what is left when the
 * device has nothing more to do.
 */

#ifndef REQUESTS
#define REQUESTS 3
#endif
#ifndef QUEUES
#define QUEUES 2
#endif
#ifndef CANCELS
#define CANCELS 2
#endif
#ifndef RESETS
#define RESETS 1
#endif
/* CANCELS is how many there are; the driver sends no more than this. */
#ifndef CANCELS_SENT
#define CANCELS_SENT CANCELS
#endif

/* The properties.  -DCHECK=<property> looks at that one only. */
mtype = {
    EXACTLY_ONCE,   /* each request is used once, and none is lost */
    NO_ACCESS,      /* no buffer is accessed after it has been given back */
    NO_LATE_EFFECT, /* later requests find the sectors settled */
    NO_WRONG_VICTIM,/* only a request that a CANCEL names is cancelled */
    TRUE_ANSWER,    /* the status of a CANCEL says what the device did */
    ANSWERED        /* a CANCEL does not wait for the storage */
};

#ifdef CHECK
#define WANTED(property) (property == CHECK)
#else
#define WANTED(property) true
#endif

inline check(property, holds) {
    if
    :: !WANTED(property) || (holds)
    :: else ->
        printf("VIOLATED: %e\n", property);
        assert(false)
    fi
}

#define BIT(i)              (1 << (i))
#define IS_IN(set, i)       ((set) & BIT(i))
#define ADD(set, i)         set = set | BIT(i)
#define DROP(set, i)        set = set & ~BIT(i)

/* --- The virtqueues -------------------------------------------------------- */

/* A buffer: request 0 .. REQUESTS-1, or CANCEL c as REQUESTS + c */
#define CANCEL(c)           (REQUESTS + (c))
#define BUFFERS             (REQUESTS + CANCELS)

mtype = { OK, CANCELED, NOT_CANCELED };

chan avail[QUEUES] = [BUFFERS] of { byte };
chan used[QUEUES] = [BUFFERS] of { byte, mtype };

/* The header; for a CANCEL the tag is that of its target. */
byte queue[BUFFERS];
byte tag[BUFFERS];
byte writes;                /* set: which requests are writes, not reads */

/* --- What the driver knows ------------------------------------------------- */

byte sent;                  /* number of requests made available so far */
byte cancels;               /* the same for CANCELs */
byte resets;                /* the same for resets */
byte outstanding;           /* set of buffers: made available, not seen used */
byte back;                  /* set of requests: seen used, or reset */
byte succeeded;             /* set of requests: used with status OK */
byte before[REQUESTS];      /* "back" when this request was made available */
byte got[REQUESTS];         /* what a read returned */
byte target[CANCELS];       /* whom the driver means */
byte asked[REQUESTS];       /* CANCELs sent and not refused */

#define EVERY_QUEUE         QUEUES
#define NO_QUEUE            (QUEUES + 1)
byte resetting = NO_QUEUE;  /* the driver waits for this reset to complete */

#define LIVE(q)             (resetting != (q) && resetting != EVERY_QUEUE)
#define IN_SCOPE(b)         (resetting == EVERY_QUEUE || queue[b] == resetting)

/* Is there, or will there be, a read whose data is still to be checked? */
#define ANY_READER \
    (sent < REQUESTS || (outstanding & (BIT(REQUESTS) - 1) & ~writes))

/* --- What the device knows ------------------------------------------------- */

mtype = {
    AWAY,           /* the device does not hold it */
    IN_RING,        /* made available, not fetched */
    HELD,           /* fetched */
    STARTED,        /* with the storage */
    RETURNED,       /* the storage has finished, the result is not used yet */
    UNFENCED,       /* (only without a rule) */
    RESIDUAL        /* given back, and the storage is still at work on it */
};

mtype state[BUFFERS] = AWAY;

byte lent;                  /* set: buffers that the device may access */
bool reset_wanted;
bool is_quiet;              /* see quiet() */

byte sector;                /* its contents: 0, or write r as r + 1 */

byte connected;             /* set: whose operation accesses the buffer */
byte tried;                 /* set: residual operations that are done again */

/* Scratch; back to 0 at the end of each action, for fewer states */
byte k, found;
mtype with;

inline clear() {
    k = 0;
    found = 0;
    with = 0
}

/* --- The device ------------------------------------------------------------ */

/* Use a buffer: from here on it is the driver's. */
inline use(b, what) {
    printf("device: uses buffer %d, %e\n", b, what);
#ifdef WITHOUT_NOT_IN_ORDER
    staged[b] = what;
#else
    DROP(lent, b);
    if
    :: !is_quiet -> used[queue[b]]!b, what
    :: else
    fi
#endif
}

#ifdef WITHOUT_NOT_IN_ORDER
/* With VIRTIO_F_IN_ORDER a buffer waits until all older ones have been used. */
chan order[QUEUES] = [BUFFERS] of { byte };
mtype staged[BUFFERS];

proctype in_order(byte b) {
end:
    do
    :: d_step {
        staged[b] != 0 && order[queue[b]]?[eval(b)] ->
        order[queue[b]]?eval(b);
        DROP(lent, b);
        if
        :: !is_quiet -> used[queue[b]]!b, staged[b]
        :: else
        fi;
        staged[b] = 0
    }
    od
}
#endif

/* The storage, or the device, touches the data of a request. */
inline access(r) {
    check(NO_ACCESS, IS_IN(lent, r))
}

/* What a CANCEL can find: fetched and not used. */
#define IS_HELD(r) \
    (state[r] == HELD || state[r] == STARTED || state[r] == RETURNED)

/* The storage does what request r asks for, with its buffer or a copy. */
inline operate(r) {
    if
    :: IS_IN(connected, r) ->
        access(r);
        DROP(connected, r)
    :: else
    fi;
    finish(r)
}

/* The storage has done what request r asks for. */
inline finish(r) {
    printf("storage: finishes request %d\n", r);
    if
    :: IS_IN(writes, r) && ANY_READER -> sector = r + 1
    :: !IS_IN(writes, r) && IS_IN(lent, r) -> got[r] = sector
    :: else
    fi
}

/*
 * Give a request back that is with the storage.  Later requests wait behind
 * what the storage still does.
 */
inline abandon(r) {
#ifdef WITHOUT_FENCE_BEFORE_USE
    state[r] = UNFENCED
#else
    state[r] = RESIDUAL
#endif
}

/*
 * Must request r wait for the residual operation of w?  Yes, if the driver had
 * seen w used when it made r available.  What a read leaves changes nothing.
 */
#define LATER(r, w)     (state[w] == RESIDUAL && IS_IN(writes, w) && \
                         IS_IN(before[r], w))
#if defined(WITHOUT_FENCE)
#define FENCED_BY(r, w) false
#elif defined(WITHOUT_FENCE_FOR_READS)
#define FENCED_BY(r, w) (LATER(r, w) && IS_IN(writes, r))
#elif defined(WITHOUT_FENCE_ON_EVERY_QUEUE)
#define FENCED_BY(r, w) (LATER(r, w) && queue[r] == queue[w])
#else
#define FENCED_BY(r, w) LATER(r, w)
#endif

#define FENCED(r)       (FENCED_BY(r, 0) || FENCED_BY(r, 1) || \
                         FENCED_BY(r, 2) || FENCED_BY(r, REQUESTS - 1))

/* Without the rule, what was not started is started later, and not fenced. */
#ifdef WITHOUT_NO_LATE_START_UNFENCED
#define NOT_STARTED     UNFENCED
#else
#define NOT_STARTED     AWAY
#endif
#ifdef WITHOUT_NO_LATE_START_AT_RESET
#define NOT_STARTED_AT_RESET UNFENCED
#else
#define NOT_STARTED_AT_RESET AWAY
#endif

/* May a request be given back while its operation accesses the buffer? */
#ifdef WITHOUT_SEVERING
#define IS_SEVERED(r)   true
#else
#define IS_SEVERED(r)   (!IS_IN(connected, r))
#endif

/* Give a request back as cancelled, wherever it is. */
inline take_back(r) {
    if
    :: state[r] == STARTED -> abandon(r)
    :: state[r] == HELD -> state[r] = NOT_STARTED
    :: else -> state[r] = AWAY      /* over: nothing remains */
    fi;
    use(r, CANCELED)
}

/*
 * CANCEL c is executed: it finds its target, which is request r, by queue and
 * tag among what the device holds.
 */
#define MATCHES(b, c)   (IS_HELD(b) && queue[b] == queue[CANCEL(c)] && \
                         tag[b] == tag[CANCEL(c)])
#ifdef WITHOUT_NOT_WAITING
#define FINDS(c, r)     (state[CANCEL(c)] == HELD && MATCHES(r, c) && \
                         state[r] != STARTED)
#else
#define FINDS(c, r)     (state[CANCEL(c)] == HELD && MATCHES(r, c))
#endif
#define FINDS_NOBODY(c) \
    (state[CANCEL(c)] == HELD && !MATCHES(0, c) && !MATCHES(1, c) && \
     !MATCHES(2, c) && !MATCHES(REQUESTS - 1, c))

inline answer(c, what) {
    state[CANCEL(c)] = AWAY;
    use(CANCEL(c), what)
}

#ifdef WITHOUT_OK_WITHOUT_TARGET
#define NOBODY          NOT_CANCELED
#else
#define NOBODY          OK
#endif

/* ... and gives it back. */
inline cancelled(c, r) {
#if defined(WITHOUT_TARGET_FIRST)
    answer(c, OK);
    take_back(r)
#elif defined(WITHOUT_TAKING_BACK)
    answer(c, OK)
#else
    take_back(r);
    answer(c, OK)
#endif
}

/* ... and finds that the storage has just finished. */
inline ended(c, r) {
    state[r] = AWAY;
    use(r, OK);
    answer(c, OK)
}

/* ... and leaves it alone: a device need not be able to give all back. */
inline refused(c, r) {
#if defined(WITHOUT_HOLDING_THE_REFUSED)
    state[CANCEL(c)] = RETURNED
#elif defined(WITHOUT_GOING_ON)
    answer(c, NOT_CANCELED);
    take_back(r)
#else
    answer(c, NOT_CANCELED)
#endif
}

/*
 * The device fetches at once.  That loses nothing: what has been fetched and
 * what has not differ only to a CANCEL, and it comes later in the virtqueue.
 */
#if defined(LAZY) || defined(WITHOUT_FETCHING) || \
    defined(WITHOUT_EARLIER_FIRST)
#define ALL_FETCHED     true
#else
#define ALL_FETCHED     (empty(avail[0]) && empty(avail[1]))
#endif

/* One request in the device and in the storage. */
proctype request(byte r) provided (ALL_FETCHED) {
end:
    do
    /* The device passes it to the storage. */
    :: d_step { state[r] == HELD && !FENCED(r) ->
        printf("device: starts request %d\n", r);
        state[r] = STARTED;
        ADD(connected, r)
    }
    /* The device takes the buffer away from the storage, for a CANCEL. */
    :: d_step { IS_IN(connected, r) && (FINDS(0, r) || FINDS(1, r)) ->
        DROP(connected, r)
    }
    /* The storage finishes, in the order that it likes, or never. */
    :: d_step { state[r] == STARTED && !is_quiet ->
        operate(r);
        state[r] = RETURNED
    }
    /* The device uses it. */
    :: d_step { state[r] == RETURNED ->
        state[r] = AWAY;
        use(r, OK)
    }
    /* The storage does what has been given back, but not for the last time. */
    :: d_step { state[r] == RESIDUAL && IS_IN(writes, r) &&
                !IS_IN(tried, r) && ANY_READER && !is_quiet ->
        operate(r);
#ifdef WITHOUT_FENCE_TO_THE_END
        state[r] = UNFENCED;
#endif
        ADD(tried, r)
    }
    /* It finishes what has been given back, and nobody is told. */
    :: d_step { (state[r] == RESIDUAL || state[r] == UNFENCED) && !is_quiet ->
        operate(r);
        DROP(tried, r);
        state[r] = AWAY;
#ifdef WITHOUT_SILENT_END
        use(r, OK)
#endif
    }
    /* A CANCEL names it. */
    :: d_step { FINDS(0, r) && IS_SEVERED(r) -> cancelled(0, r) }
    :: d_step { FINDS(1, r) && IS_SEVERED(r) -> cancelled(1, r) }
    :: d_step { FINDS(0, r) && state[r] == RETURNED -> ended(0, r) }
    :: d_step { FINDS(1, r) && state[r] == RETURNED -> ended(1, r) }
    :: d_step { FINDS(0, r) -> refused(0, r) }
    :: d_step { FINDS(1, r) -> refused(1, r) }
#ifdef WITHOUT_FENCE_BEFORE_USE
    :: d_step { state[r] == UNFENCED -> state[r] = RESIDUAL }
#endif
#ifdef WITHOUT_ASKING
    /* A device that gives up a request by itself. */
    :: d_step { state[r] == STARTED && !is_quiet ->
        DROP(connected, r);
        abandon(r);
        use(r, CANCELED)
    }
#endif
    od
}

/* Fetch the oldest buffer of virtqueue q. */
inline fetch(q) {
    avail[q]?found;
    state[found] = HELD;
    clear()
}

#define BUSY(q, r)      (queue[r] == (q) && (state[r] == HELD || \
                                            state[r] == STARTED))
/*
 * Must the device leave the buffers of virtqueue q alone for now?  Without the
 * rule it serves one request of a virtqueue after the other.
 */
#ifdef WITHOUT_FETCHING
#define CAN_FETCH(q)    (nempty(avail[q]) && !BUSY(q, 0) && !BUSY(q, 1) && \
                         !BUSY(q, 2))
#else
#define CAN_FETCH(q)    nempty(avail[q])
#endif

inline empty_avail(q) {
    do
    :: nempty(avail[q]) -> avail[q]?_
    :: empty(avail[q]) -> break
    od
}

inline empty_used(q) {
    do
    :: nempty(used[q]) -> used[q]?_, _
    :: empty(used[q]) -> break
    od
}

/*
 * Reset the device or one virtqueue, at once or as late as it likes: every
 * request in it ends as if it had been cancelled, except that it is not used.
 */
inline reset() {
    printf("device: resets\n");
    for (k : 0 .. REQUESTS - 1) {
        if
        :: state[k] != RESIDUAL && state[k] != UNFENCED && IN_SCOPE(k) ->
            DROP(lent, k);
            if
            :: state[k] == STARTED ->
#ifndef WITHOUT_SEVERING_AT_RESET
                DROP(connected, k);
#endif
#ifndef WITHOUT_FENCE_AT_RESET
                state[k] = RESIDUAL
#else
                state[k] = UNFENCED
#endif
            :: state[k] == HELD -> state[k] = NOT_STARTED_AT_RESET
            :: else -> state[k] = AWAY
            fi
        :: else
        fi
    }
    for (k : 0 .. CANCELS - 1) {
        if
        :: IN_SCOPE(CANCEL(k)) ->
            DROP(lent, CANCEL(k));
#ifdef WITHOUT_FORGETTING_CANCELS
            if
            :: state[CANCEL(k)] == IN_RING -> state[CANCEL(k)] = AWAY
            :: else
            fi
#else
            state[CANCEL(k)] = AWAY
#endif
        :: else
        fi
    }
    for (k : 0 .. QUEUES - 1) {
        if
        :: resetting == EVERY_QUEUE || resetting == k ->
            empty_avail(k);
            empty_used(k)
        :: else
        fi
    }
    reset_wanted = false;
    clear()
}

/* What the device does apart from the requests themselves. */
proctype device() {
end:
    do
    :: d_step { CAN_FETCH(0) -> fetch(0) }
    :: d_step { CAN_FETCH(1) -> fetch(1) }
    :: d_step { FINDS_NOBODY(0) -> answer(0, NOBODY) }
    :: d_step { FINDS_NOBODY(1) -> answer(1, NOBODY) }
    :: d_step { reset_wanted -> reset() }
#ifdef WITHOUT_EARLIER_FIRST
    /* A device that fetches several buffers at once, and in any order. */
    :: d_step { state[CANCEL(0)] == IN_RING ->
        found = CANCEL(0);
        avail[queue[found]]??eval(found);
        state[found] = HELD;
        clear()
    }
#endif
#ifdef WITHOUT_CANCEL_IS_NO_TARGET
    :: d_step { FINDS(0, CANCEL(1)) -> cancelled(0, CANCEL(1)) }
#endif
#ifdef WITHOUT_HOLDING_THE_REFUSED
    :: d_step { state[CANCEL(0)] == RETURNED -> answer(0, NOT_CANCELED) }
#endif
    od
}

/* --- The driver ------------------------------------------------------------ */

#ifdef WITHOUT_NOT_IN_ORDER
#define MAKE_AVAILABLE(b)   avail[queue[b]]!b; order[queue[b]]!b
#else
#define MAKE_AVAILABLE(b)   avail[queue[b]]!b
#endif

/* Make buffer b available on a virtqueue. */
inline make_available(b, q, a_tag) {
    queue[b] = q;
    tag[b] = a_tag;
    state[b] = IN_RING;
    ADD(lent, b);
    ADD(outstanding, b);
    MAKE_AVAILABLE(b)
}

/*
 * May the driver give a new request of virtqueue q this tag?  Not if an
 * outstanding request has it, and not if an outstanding CANCEL names it.
 */
#define TAKES(b, q, a_tag)  (IS_IN(outstanding, b) && queue[b] == (q) && \
                             tag[b] == (a_tag))
#define IS_TAKEN(q, a_tag) \
    (TAKES(0, q, a_tag) || TAKES(1, q, a_tag) || TAKES(2, q, a_tag) || \
     TAKES(REQUESTS - 1, q, a_tag))
#define IS_NAMED(q, a_tag) \
    (TAKES(CANCEL(0), q, a_tag) || TAKES(CANCEL(1), q, a_tag))

#ifdef WITHOUT_UNIQUE_TAGS
#define IS_UNIQUE(q, a_tag) true
#else
#define IS_UNIQUE(q, a_tag) (!IS_TAKEN(q, a_tag))
#endif
#ifdef WITHOUT_TAG_KEPT_FOR_CANCEL
#define IS_UNNAMED(q, a_tag) true
#else
#define IS_UNNAMED(q, a_tag) (!IS_NAMED(q, a_tag))
#endif

/* Tags are alike: 1 is of no interest while 0 can be had. */
#define IS_NEXT(q, a_tag)   ((a_tag) == 0 || IS_TAKEN(q, 0) || IS_NAMED(q, 0))

#define CAN_SEND(q, a_tag) \
    (sent < REQUESTS && !is_quiet && LIVE(q) && IS_UNIQUE(q, a_tag) && \
     IS_UNNAMED(q, a_tag) && IS_NEXT(q, a_tag))

/* Send the next request, a read or a write. */
inline send(q, a_tag) {
    if
    :: ADD(writes, sent)
    :: true
    fi;
    printf("driver: request %d, virtqueue %d, tag %d, a write: %d\n", sent, q,
           a_tag, IS_IN(writes, sent) != 0);
    before[sent] = back;
    make_available(sent, q, a_tag);
    sent++
}

/* Ask for request r, on the virtqueue that it is on. */
inline cancel(r) {
    printf("driver: CANCEL %d names request %d\n", cancels, r);
    target[cancels] = r;
    asked[r]++;
#ifdef WITHOUT_SAME_QUEUE
    make_available(CANCEL(cancels), QUEUES - 1 - queue[r], tag[r]);
#else
    make_available(CANCEL(cancels), queue[r], tag[r]);
#endif
    cancels++
}

/*
 * Has read r, which returned "what", seen something that the driver had every
 * reason to take for over?  Writes in "back" were used or reset before the
 * read was made available, so they have landed or never will:
 * - nothing older than a write that had succeeded may come back, and
 * - two reads, one after the other, agree if no write was outstanding.
 */
#define SETTLED(what, r)    (what == 0 || IS_IN(before[r], what - 1))

inline check_read(r, what) {
    for (k : 0 .. REQUESTS - 1) {
        if
        :: k != r && IS_IN(before[r], k) && IS_IN(succeeded, k) ->
            if
            :: IS_IN(writes, k) ->
                check(NO_LATE_EFFECT, what == k + 1 || !SETTLED(what, k))
            :: else ->
                check(NO_LATE_EFFECT, what == got[k] || !SETTLED(what, k))
            fi
        :: else
        fi
    }
}

/* What is of no use any more only makes for more states. */
#if defined(WITHOUT_FENCE_ON_EVERY_QUEUE) || \
    defined(WITHOUT_FORGETTING_CANCELS)
#define NEEDED(b)       (state[b] != AWAY)
#else
#define NEEDED(b)       false
#endif

inline forget(b) {
    if
    :: !NEEDED(b) ->
        queue[b] = 0;
        tag[b] = 0
    :: else
    fi;
    if
    :: b >= REQUESTS ->
        target[b - REQUESTS] = 0
    :: b < REQUESTS ->
        asked[b] = 0;
        if
        :: !IS_IN(succeeded, b) ->
            before[b] = 0;
            got[b] = 0
        :: else
        fi
    fi
}

inline forget_history() {
    if
    :: !ANY_READER ->
        back = 0;
        succeeded = 0;
        sector = 0;
        for (k : 0 .. REQUESTS - 1) {
            before[k] = 0;
            got[k] = 0
        }
    :: else
    fi
}

/* Take a used buffer from virtqueue q. */
inline reap(q) {
    used[q]?found, with;
    printf("driver: sees buffer %d used, %e\n", found, with);
    check(EXACTLY_ONCE, IS_IN(outstanding, found));
    DROP(outstanding, found);
    if
    :: found < REQUESTS && with == OK ->
        ADD(succeeded, found);
        ADD(back, found);
        if
        :: IS_IN(writes, found)
        :: else -> check_read(found, got[found])
        fi
    :: found < REQUESTS && with == CANCELED ->
        check(NO_WRONG_VICTIM, asked[found] > 0);
        ADD(back, found)
    :: found >= REQUESTS && with == OK ->
        check(TRUE_ANSWER, !IS_IN(outstanding, target[found - REQUESTS]))
    :: found >= REQUESTS && with == NOT_CANCELED ->
        check(TRUE_ANSWER, IS_IN(outstanding, target[found - REQUESTS]));
        asked[target[found - REQUESTS]]--
    :: else ->
        check(TRUE_ANSWER, false)
    fi;
    forget(found);
    forget_history();
    clear()
}

/* A reset is complete: everything in it is the driver's again. */
inline reset_seen() {
    printf("driver: sees the reset complete\n");
    for (k : 0 .. BUFFERS - 1) {
        if
        :: IS_IN(outstanding, k) && IN_SCOPE(k) ->
            DROP(outstanding, k);
            if
            :: k < REQUESTS -> ADD(back, k)
            :: else
            fi;
            forget(k)
        :: else
        fi
    }
    resetting = NO_QUEUE;
    forget_history();
    clear()
}

#define CAN_CANCEL(r)   (cancels < CANCELS_SENT && !is_quiet && \
                         IS_IN(outstanding, r) && LIVE(queue[r]))
#define CAN_START_RESET (resets < RESETS && !is_quiet && resetting == NO_QUEUE)
#define CAN_SEE_RESET   (!is_quiet && resetting != NO_QUEUE && !reset_wanted)
#define CAN_REAP(q)     (!is_quiet && LIVE(q) && nempty(used[q]))

/*
 * Nothing more is sent or seen, and what has not finished hangs for good.
 * What nobody will ask for again is forgotten, so that there are fewer states.
 */
inline quiet() {
    printf("driver and storage: go quiet\n");
    is_quiet = true;
    outstanding = 0;
    sent = REQUESTS;
    cancels = CANCELS;
    resets = RESETS;
    forget_history();
    for (k : 0 .. REQUESTS - 1) {
        asked[k] = 0
    }
    for (k : 0 .. CANCELS - 1) {
        target[k] = 0
    }
    for (k : 0 .. QUEUES - 1) {
        empty_used(k)
    }
    clear()
}

proctype driver() provided (ALL_FETCHED) {
end:
    do
    /* The virtqueues are alike: the first request is on virtqueue 0. */
    :: atomic { CAN_SEND(0, 0) -> send(0, 0) }
    :: atomic { CAN_SEND(0, 1) -> send(0, 1) }
    :: atomic { CAN_SEND(1, 0) && sent > 0 -> send(1, 0) }
    :: atomic { CAN_SEND(1, 1) && sent > 0 -> send(1, 1) }
    :: d_step { CAN_CANCEL(0) -> cancel(0) }
    :: d_step { CAN_CANCEL(1) -> cancel(1) }
    :: d_step { CAN_CANCEL(2) -> cancel(2) }
#if REQUESTS > 3
    :: d_step { CAN_CANCEL(3) -> cancel(3) }
#endif
    :: d_step { CAN_REAP(0) -> reap(0) }
    :: d_step { CAN_REAP(1) -> reap(1) }
    :: atomic { CAN_START_RESET ->
        resets++;
        if
        :: resetting = 0
        :: resetting = 1
        :: resetting = EVERY_QUEUE
        fi;
        printf("driver: resets virtqueue %d (%d: the device)\n", resetting,
               EVERY_QUEUE);
        reset_wanted = true
    }
    :: d_step { CAN_SEE_RESET -> reset_seen() }
    :: d_step { !is_quiet -> quiet() }
    od
}

/* --- The end ---------------------------------------------------------------- */

/* A request that has not been used may only be waiting for the storage. */
#define WAITS_FOR_STORAGE(r) (state[r] == STARTED || \
                              (state[r] == HELD && FENCED(r)))

/* The device has done what it can. */
proctype monitor() {
    timeout ->
    d_step {
        for (k : 0 .. BUFFERS - 1) {
            if
            :: IS_IN(lent, k) && k < REQUESTS ->
                check(EXACTLY_ONCE, WAITS_FOR_STORAGE(k))
            :: IS_IN(lent, k) && k >= REQUESTS ->
                check(ANSWERED, false)
            :: else
            fi
        }
    }
}

init {
    atomic {
        run driver();
        run device();
        for (k : 0 .. REQUESTS - 1) {
            run request(k)
        }
#ifdef WITHOUT_NOT_IN_ORDER
        for (k : 0 .. BUFFERS - 1) {
            run in_order(k)
        }
#endif
        run monitor()
    }
}
