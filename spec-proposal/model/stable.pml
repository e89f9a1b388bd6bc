/*
 * VIRTIO_BLK_F_CANCEL: a model of what is on the disk after a crash
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One sector, whose contents are 0 and stable.  A write of 1 to it is canceled,
 * before or after the device has started it.  Then the driver sends a read, a
 * write of 2 and two flushes, each of them or not, in any order, cancels
 * flushes, and changes the cache mode once.  The storage has a volatile cache,
 * which it writes back at any time, torn or whole, and can fail to write back;
 * the canceled write lands at any time, or never, and can fail.  The power goes
 * at any time, and then the disk is looked at.
 *
 * Rules are taken out as in cancel.pml.
 */

mtype = {
    STABLE,         /* what the text calls stable is what the disk has */
    UNTOUCHED       /* a canceled write that was not started does nothing */
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

mtype = { NONE, SENT, STARTED, LANDED, DONE, FAILED, CANCELED };

/* --- The storage ----------------------------------------------------------- */

#define TORN        3
byte cache;                 /* what a read finds */
byte disk;                  /* what a crash leaves */
bool dirty;                 /* the cache has what the disk has not */
bool failed;                /* an error that no flush has reported yet */

/* --- The requests ---------------------------------------------------------- */

mtype old = SENT;           /* the canceled write: what the storage does */
bool is_used;               /* the device has used it, as canceled */
bool is_late;               /* it had not been started then */
bool old_failed;
mtype read = NONE, write = NONE;
byte got;                   /* what the read has returned */
mtype flush[2] = NONE;
bool acted[2];              /* the storage has done what the flush asks for */

/* --- What the driver knows -------------------------------------------------- */

bool through;               /* writethrough mode: writeback is 0 */
bool changed;               /* the driver has changed it */
bool told;                  /* a flush has reported an error */
bool read_stable, write_stable; /* ... as the text says */
bool after_read[2], after_write[2]; /* the flush was sent after ... was DONE */

/* Writethrough from the submission of the canceled write until now */
#ifdef WITHOUT_ALL_THE_TIME
#define WAS_THROUGH through
#else
#define WAS_THROUGH (through && !changed)
#endif

/* Is what the storage still does for the canceled write before this request? */
#ifdef WITHOUT_ORDER
#define MAY_START   true
#else
#define MAY_START   (old != STARTED && old != LANDED)
#endif

/* The canceled write, made available before everything else */
proctype old_write() {
    bool was_through;
end:
    do
    :: d_step { old == SENT && !is_used ->
        printf("device: starts the canceled write\n");
        was_through = through;
        old = STARTED
    }
    :: d_step { old == SENT && !is_used ->
        printf("device: uses the canceled write, which was not started\n");
        is_late = true;
        is_used = true;
#ifndef WITHOUT_NO_LATE_START
        old = NONE
#endif
    }
    :: d_step { old != SENT && !is_used ->
        printf("device: uses the canceled write\n");
        is_used = true
    }
#ifdef WITHOUT_NO_LATE_START
    :: d_step { old == SENT && is_used ->
        printf("device: starts the canceled write\n");
        was_through = through;
        old = STARTED
    }
#endif
    :: d_step { old == STARTED ->
        printf("storage: the canceled write lands\n");
        cache = 1;
#ifndef WITHOUT_FLUSHED
        dirty = true;
#endif
        old = LANDED
    }
    :: d_step { old == STARTED ->
        printf("storage: the canceled write fails\n");
        cache = TORN;
        dirty = true;
        old_failed = true;
        old = FAILED
    }
    /* In writethrough mode the operation includes making it stable. */
    :: d_step { old == LANDED ->
        if
#ifndef WITHOUT_THROUGH
        :: was_through ->
            disk = cache;
            dirty = false
#endif
        :: else
        fi;
        old = DONE
    }
    od
}

/* A later read and a later write */
proctype later() {
end:
    do
    :: d_step { read == SENT && MAY_START ->
        printf("device: uses the read: %d\n", cache);
        got = cache;
        read = DONE;
        read_stable = (WAS_THROUGH && !old_failed)
    }
    :: d_step { write == SENT && MAY_START ->
        printf("device: uses the write of 2\n");
        cache = 2;
        dirty = !through;
        if
        :: through -> disk = cache
        :: else
        fi;
        write = DONE;
        write_stable = WAS_THROUGH
    }
    od
}

/* What was sent before this flush, and is stable once it is completed */
inline flushed(f) {
#ifdef WITHOUT_FLUSH_LAST
    read_stable = read_stable || read == DONE;
    write_stable = write_stable || write == DONE
#else
    read_stable = read_stable || after_read[f];
    write_stable = write_stable || after_write[f]
#endif
}

proctype flusher(byte f) {
end:
    do
    :: d_step { flush[f] == SENT ->
        printf("device: uses flush %d, canceled\n", f);
        flush[f] = CANCELED;
#ifdef WITHOUT_NOT_FLUSHED
        flushed(f)
#endif
    }
    :: d_step { (flush[f] == SENT || flush[f] == CANCELED) && !acted[f] ->
        printf("storage: writes back for flush %d\n", f);
        if
        :: dirty -> disk = cache
        :: else
        fi;
        dirty = false;
        acted[f] = true
    }
    :: d_step { (flush[f] == SENT || flush[f] == CANCELED) && !acted[f] &&
                dirty ->
        printf("storage: fails to write back for flush %d\n", f);
        dirty = false;
#ifdef WITHOUT_ERROR_KEPT
        failed = failed || flush[f] == SENT;
#else
        failed = true;
#endif
        acted[f] = true
    }
    :: d_step { flush[f] == SENT && acted[f] ->
        if
        :: failed ->
            printf("device: uses flush %d, IOERR\n", f);
            failed = false;
            told = true;
            flush[f] = FAILED
        :: else ->
            printf("device: uses flush %d, OK\n", f);
            flush[f] = DONE;
            flushed(f)
        fi
    }
    od
}

/* The storage writes back when it likes. */
proctype write_back() {
end:
    do
    :: d_step { (dirty || old == STARTED) && disk != TORN ->
        printf("storage: writes half of it to the disk\n");
        disk = TORN
    }
    :: d_step { dirty ->
        printf("storage: writes %d to the disk\n", cache);
        disk = cache;
        dirty = false
    }
    od
}

inline send_flush(f) {
    printf("driver: sends flush %d\n", f);
    after_read[f] = (read == DONE);
    after_write[f] = (write == DONE);
    flush[f] = SENT
}

proctype driver() {
end:
    do
    :: d_step { is_used && read == NONE ->
        printf("driver: sends a read\n");
        read = SENT
    }
    :: d_step { is_used && write == NONE ->
        printf("driver: sends a write of 2\n");
        write = SENT
    }
    :: d_step { flush[0] == NONE -> send_flush(0) }
    :: d_step { flush[0] != NONE && flush[1] == NONE -> send_flush(1) }
    :: d_step { !changed ->
        printf("driver: changes the cache mode\n");
        changed = true;
        through = !through
    }
    od
}

proctype power() {
    d_step {
        printf("power: goes, the disk has %d\n", disk);
        if
        :: told         /* base: nothing is said about what it has lost */
        :: !told && write == NONE ->
            check(STABLE, !read_stable || disk == got);
            check(UNTOUCHED, !is_late || (disk == 0 && cache == 0))
        :: !told && write != NONE ->
            check(STABLE, !write_stable || disk == 2)
        fi
    }
}

init {
    atomic {
        if
        :: through = true
        :: true
        fi;
        run old_write();
        run later();
        run flusher(0);
        run flusher(1);
        run write_back();
        run driver();
        run power()
    }
}
