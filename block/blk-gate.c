/*
 * The gate: what must not meet storage that hangs passes here first
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Closing the gate is a drained section without its dangers: requests that come
 * are parked just the same, but nobody polls for those in flight with the BQL
 * held.  If they do not end in time the gate is opened again, and nothing has
 * happened.
 *
 * Hooks: block/io.c (when a node's request began), system/cpus.c (the VM
 * stops); the callers are those of blk-gate.h.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "block/aio.h"
#include "block/blk-detach-quiesce.h"
#include "block/blk-gate.h"
#include "block/blk-orphan.h"
#include "block/block.h"
#include "system/block-backend.h"
#include "trace.h"

#define GRACE_NS    (1 * NANOSECONDS_PER_SECOND)    /* for all to finish */
#define HELD_MS     3000    /* and the command's own time */
#define POLL_NS     (1 * SCALE_MS)
#define RETRY_NS    (100 * SCALE_MS)
#define WARN_NS     (30 * NANOSECONDS_PER_SECOND)

/* BQL */
static unsigned int entered;    /* blk_gate_co_enter() without its leave */
static bool closed;
static QEMUTimer *timer;        /* opens it by itself */

/* What stands in the way */
typedef struct GateView {
    BlkDetachLoad worst;        /* .in_flight is false if no disk does */
    unsigned int others;        /* disks like it */
    bool hangs;                 /* it does not help to wait a second */
    BlockDriverState *bs;       /* only this node has something old */
    int64_t bs_ns;              /* for so long */
} GateView;

/*
 * gate_look:
 * @since: requests of nodes that began later do not count
 *
 * Returns: whether anything is under way
 */
static bool gate_look(GateView *v, int64_t since)
{
    BlkDetachLoad load = {};
    int64_t oldest;

    *v = (GateView) {};
    while (blk_detach_next_load(&load)) {
        if (!load.in_flight) {
            continue;
        }
        v->hangs |= load.overdue || load.detached;
        v->others += v->worst.in_flight;
        if (!v->worst.in_flight || load.oldest_ns > v->worst.oldest_ns) {
            v->worst = load;
        }
    }
    if (v->worst.in_flight) {
        return true;
    }

    v->bs = blk_detach_node_started_before(since, &oldest);
    v->bs_ns = get_clock() - oldest;
    v->hangs = v->bs && v->bs_ns >= BLK_DETACH_OVERDUE_NS;
    return v->bs;
}

/* The name that the user has given the disk, or one to find it by */
static char *gate_disk_name(BlockBackend *blk)
{
    g_autofree char *dev = blk_get_attached_dev_id(blk);
    const char *id = dev;

    if (strstart(dev, "/machine/peripheral/", &id)) {
        /* A part of a device; that has an id */
        return g_strndup(id, strcspn(id, "/"));
    }
    if (*dev) {
        return g_steal_pointer(&dev);
    }
    if (*blk_name(blk)) {
        return g_strdup(blk_name(blk));
    }
    return g_strdup(blk_bs(blk) ? bdrv_get_node_name(blk_bs(blk)) : "");
}

static char *gate_describe(const GateView *v)
{
    g_autofree char *name = NULL;
    GString *s = g_string_new(NULL);

    if (v->bs) {
        g_string_printf(s, "node '%s' has a request that has been with the "
                        "storage for %.1f s", bdrv_get_node_name(v->bs),
                        v->bs_ns / (double)NANOSECONDS_PER_SECOND);
        return g_string_free(s, false);
    }

    name = gate_disk_name(v->worst.blk);
    g_string_printf(s, "disk '%s'%s has %u request%s with the storage, %u of "
                    "them detached, the oldest for %.1f s", name,
                    blk_orphan_id(v->worst.blk) ? ", now unplugged," : "",
                    v->worst.issued, v->worst.issued == 1 ? "" : "s",
                    v->worst.detached,
                    v->worst.oldest_ns / (double)NANOSECONDS_PER_SECOND);
    if (v->others) {
        g_string_append_printf(s, " (and %u more disk%s)", v->others,
                               v->others == 1 ? "" : "s");
    }
    return g_string_free(s, false);
}

static void gate_refuse(const char *what, const char *why, Error **errp)
{
    trace_blk_gate_refused(what, why);
    error_setg(errp, "'%s' would wait for storage that hangs: %s; try again "
               "when the storage answers", what, why);
}

bool blk_gate_check(const char *what, Error **errp)
{
    g_autofree char *why = NULL;
    GateView v;
    GLOBAL_STATE_CODE();

    if (!blk_detach_any() || !gate_look(&v, INT64_MAX) || !v.hangs) {
        return true;
    }
    why = gate_describe(&v);
    gate_refuse(what, why, errp);
    return false;
}

/*
 * Closing and opening it
 */

static void gate_open(void)
{
    if (closed) {
        trace_blk_gate_open(entered);
        closed = false;
        timer_del(timer);
        blk_detach_open_gate();
    }
}

static void gate_timer(void *opaque)
{
    gate_open();
}

static void gate_close(void)
{
    if (!timer) {
        /* Runs in nested event loops, too */
        timer = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME,
                              SCALE_MS, gate_timer, NULL);
    }
    timer_mod(timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + HELD_MS);
    if (!closed) {
        trace_blk_gate_close(entered);
        closed = true;
        blk_detach_close_gate();
    }
}

void blk_gate_leave(void)
{
    GLOBAL_STATE_CODE();
    assert(entered);

    if (--entered == 0) {
        gate_open();
    }
}

bool blk_gate_is_entered(void)
{
    return entered;
}

bool blk_gate_is_needed(void)
{
    return blk_detach_any();
}

void blk_gate_vm_stops(void)
{
    GLOBAL_STATE_CODE();
    gate_open();
}

/*
 * Entering it
 */

/* One flush; owned by gate_co_flush() */
typedef struct GateFlush {
    BlockAIOCB *acb;            /* NULL once it has ended */
    QSLIST_ENTRY(GateFlush) next;
} GateFlush;

typedef QSLIST_HEAD(, GateFlush) GateFlushList;

static void gate_flush_cb(void *opaque, int ret)
{
    GateFlush *f = opaque;

    /* Whoever flushes next will see an error as well */
    f->acb = NULL;
}

static bool gate_flush_pending(GateFlushList *list)
{
    GateFlush *f;

    QSLIST_FOREACH(f, list, next) {
        if (f->acb) {
            return true;
        }
    }
    return false;
}

typedef struct GateFlushAll {
    GateFlushList *list;
    Coroutine *co;
} GateFlushAll;

static void gate_flush_bh(void *opaque)
{
    GateFlushAll *all = opaque;
    BlkDetachLoad load = {};

    while (blk_detach_next_load(&load)) {
        GateFlush *f = g_new0(GateFlush, 1);

        QSLIST_INSERT_HEAD(all->list, f, next);
        f->acb = blk_detach_probe_flush(&load, gate_flush_cb, f);
    }
    aio_co_wake(all->co);
}

/* Flush all; what has not ended by @deadline is detached. */
static void coroutine_fn gate_co_flush(int64_t deadline)
{
    GateFlushList list = QSLIST_HEAD_INITIALIZER(list);
    GateFlushAll all = { .list = &list, .co = qemu_coroutine_self() };
    GateFlush *f;

    /*
     * A coroutine that another one starts is in that one's AioContext.  Drivers
     * count on theirs to be the one that they run in, and this may be in that
     * of the main loop's I/O handlers.
     */
    aio_bh_schedule_oneshot(iohandler_get_aio_context(), gate_flush_bh, &all);
    qemu_coroutine_yield();
    while (gate_flush_pending(&list) && get_clock() < deadline) {
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, POLL_NS);
    }
    while ((f = QSLIST_FIRST(&list))) {
        if (f->acb) {
            blk_aio_cancel_async(f->acb);
        }
        QSLIST_REMOVE_HEAD(&list, next);
        g_free(f);
    }
}

/*
 * Wait until nothing is under way.  The requests' ends are not hooked, because
 * they come by many ways and in all threads: ask from time to time.
 */
static bool coroutine_fn gate_co_wait(GateView *v, int64_t begin,
                                      int64_t deadline)
{
    while (gate_look(v, begin)) {
        if (v->hangs || get_clock() >= deadline) {
            return false;
        }
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, POLL_NS);
        gate_close();   /* the VM may have stopped */
    }
    return true;
}

static void gate_reap_bh(void *opaque)
{
    blk_orphan_reap();
    aio_co_wake(opaque);
}

/* Whoever is let in next may want the image that an orphan still has. */
static void coroutine_fn gate_co_reap(void)
{
    if (blk_orphan_any()) {
        aio_bh_schedule_oneshot(iohandler_get_aio_context(), gate_reap_bh,
                                qemu_coroutine_self());
        qemu_coroutine_yield();
    }
}

/* Returns: NULL, or what stands in the way; the gate is open then */
static char *coroutine_fn gate_co_enter(bool flush)
{
    int64_t begin = get_clock();
    int64_t deadline = begin + GRACE_NS;
    GateView v = {};

    if (!blk_detach_any()) {
        entered++;
        return NULL;
    }
    if (gate_look(&v, INT64_MAX) && v.hangs) {
        return gate_describe(&v);
    }

    entered++;
    gate_close();
    if (gate_co_wait(&v, begin, deadline)) {
        if (flush) {
            gate_co_flush(deadline);
        }
        if (!flush || gate_co_wait(&v, begin, deadline)) {
            gate_co_reap();
            return NULL;
        }
    }
    blk_gate_leave();
    return gate_describe(&v);
}

bool coroutine_fn blk_gate_co_enter(const char *what, bool flush, Error **errp)
{
    g_autofree char *why = NULL;
    GLOBAL_STATE_CODE();

    why = gate_co_enter(flush);
    if (why) {
        gate_refuse(what, why, errp);
    }
    return !why;
}

/*
 * For those that cannot wait in a coroutine
 */

typedef struct GateEnter {
    const char *what;
    bool flush;
    Error **errp;
    bool ok;
    QemuSemaphore over;
} GateEnter;

static void coroutine_fn gate_enter_entry(void *opaque)
{
    GateEnter *e = opaque;

    e->ok = blk_gate_co_enter(e->what, e->flush, e->errp);
    qemu_sem_post(&e->over);
}

bool blk_gate_enter(const char *what, bool flush, Error **errp)
{
    GateEnter e = { .what = what, .flush = flush, .errp = errp };
    Coroutine *co;
    GLOBAL_STATE_CODE();

    if (!blk_detach_any()) {
        entered++;
        return true;
    }
    qemu_sem_init(&e.over, 0);
    co = qemu_coroutine_create(gate_enter_entry, &e);
    aio_co_schedule(iohandler_get_aio_context(), co);
    bql_unlock();
    qemu_sem_wait(&e.over);
    bql_lock();
    qemu_sem_destroy(&e.over);
    return e.ok;
}

typedef struct GateCall {
    char *what;
    bool flush;
    void (*cb)(void *opaque);
    void *opaque;
    Coroutine *co;
} GateCall;

static void gate_call_bh(void *opaque)
{
    GateCall *call = opaque;

    call->cb(call->opaque);
    aio_co_wake(call->co);
}

static void coroutine_fn gate_call_entry(void *opaque)
{
    GateCall *call = opaque;
    int64_t warned = INT64_MIN;
    char *why;

    while ((why = gate_co_enter(call->flush))) {
        if (warned == INT64_MIN || get_clock() - warned >= WARN_NS) {
            warned = get_clock();
            warn_report("'%s' waits for storage that hangs: %s", call->what,
                        why);
        }
        g_free(why);
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, RETRY_NS);
    }

    call->co = qemu_coroutine_self();
    aio_bh_schedule_oneshot(iohandler_get_aio_context(), gate_call_bh, call);
    qemu_coroutine_yield();
    blk_gate_leave();
    g_free(call->what);
    g_free(call);
}

void blk_gate_call(const char *what, bool flush, void (*cb)(void *opaque),
                   void *opaque)
{
    GateCall *call;
    GLOBAL_STATE_CODE();

    if (!blk_detach_any()) {
        cb(opaque);
        return;
    }
    call = g_new0(GateCall, 1);
    call->what = g_strdup(what);
    call->flush = flush;
    call->cb = cb;
    call->opaque = opaque;

    /* Nested event loops do not run what is in this context */
    aio_co_schedule(iohandler_get_aio_context(),
                    qemu_coroutine_create(gate_call_entry, call));
}
