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
#include "qapi/qapi-events-block.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "block/aio.h"
#include "block/blk-cancel-quiesce.h"
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
static bool vm_stops;           /* devices wait for their requests */
static QEMUTimer *timer;        /* opens it by itself */

/* What stands in the way */
typedef struct GateView {
    BlkCancelLoad worst;        /* .in_flight is false if no disk does */
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
    BlkCancelLoad load = {};
    int64_t oldest;

    *v = (GateView) {};
    while (blk_cancel_next_load(&load)) {
        if (!load.in_flight) {
            continue;
        }
        v->hangs |= load.overdue || load.abandoned;
        v->others += v->worst.in_flight;
        if (!v->worst.in_flight || load.oldest_ns > v->worst.oldest_ns) {
            v->worst = load;
        }
    }
    if (v->worst.issued) {
        return true;
    }

    /* Somebody else's, or what has not come through blk_aio_*() */
    v->bs = blk_cancel_node_started_before(v->worst.in_flight ? INT64_MAX
                                                              : since, &oldest);
    v->bs_ns = get_clock() - oldest;
    v->hangs |= v->bs && v->bs_ns >= BLK_CANCEL_OVERDUE_NS;
    return v->bs || v->worst.in_flight;
}

bool blk_gate_is_idle(void)
{
    GateView v;

    return !gate_look(&v, INT64_MAX);
}

/* The name that the user has given the disk, or one to find it by */
static char *gate_disk_name(BlockBackend *blk)
{
    g_autofree char *dev = blk_get_attached_dev_id(blk);
    char *unplugged = strstr(dev, " (unplugged #");
    const char *id = dev;

    if (unplugged) {
        *unplugged = '\0';
    }
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
    if (!v->worst.issued) {
        /* Its device has asked where blocks are allocated */
        g_string_printf(s, "disk '%s' waits for an answer of the storage",
                        name);
        return g_string_free(s, false);
    }
    g_string_printf(s, "disk '%s'%s has %u request%s with the storage, %u of "
                    "them abandoned, the oldest for %.1f s", name,
                    blk_orphan_id(v->worst.blk) ? ", now unplugged," : "",
                    v->worst.issued, v->worst.issued == 1 ? "" : "s",
                    v->worst.abandoned,
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

char *blk_gate_describe(void)
{
    GateView v;
    GLOBAL_STATE_CODE();

    if (!blk_cancel_any() || !gate_look(&v, INT64_MAX) || !v.hangs) {
        return NULL;
    }
    return gate_describe(&v);
}

bool blk_gate_check(const char *what, Error **errp)
{
    g_autofree char *why = blk_gate_describe();

    if (why) {
        gate_refuse(what, why, errp);
    }
    return !why;
}

bool blk_gate_allows(const char *what)
{
    Error *err = NULL;

    if (!entered && !blk_gate_check(what, &err)) {
        error_report_err(err);
        return false;
    }
    return true;
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
        blk_cancel_open_gate();
    }
}

static void gate_timer(void *opaque)
{
    gate_open();
}

static void gate_close(void *opaque)
{
    if (vm_stops) {
        /* What comes now must not be kept beyond the end of the stop */
        return;
    }
    if (!timer) {
        /* Runs in nested event loops, too */
        timer = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME,
                              SCALE_MS, gate_timer, NULL);
    }
    timer_mod(timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + HELD_MS);
    if (!closed) {
        trace_blk_gate_close(entered);
        closed = true;
        blk_cancel_close_gate();
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
    return blk_cancel_any();
}

void blk_gate_vm_stops(void)
{
    GLOBAL_STATE_CODE();
    vm_stops = true;
    gate_open();
}

void blk_gate_vm_stopped(void)
{
    GLOBAL_STATE_CODE();
    vm_stops = false;
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

/*
 * A coroutine that another one starts or wakes runs in that one's AioContext,
 * and drivers count on theirs to be the one that they run in.  So what starts
 * or wakes requests is called here, outside the gate's own coroutine.
 */
typedef struct GateRun {
    void (*fn)(void *opaque);
    void *opaque;
    Coroutine *co;
} GateRun;

static void gate_run_bh(void *opaque)
{
    GateRun *run = opaque;

    run->fn(run->opaque);
    aio_co_wake(run->co);
}

static void coroutine_fn gate_co_run(void (*fn)(void *opaque), void *opaque)
{
    GateRun run = { fn, opaque, qemu_coroutine_self() };

    aio_bh_schedule_oneshot(qemu_coroutine_get_aio_context(run.co),
                            gate_run_bh, &run);
    qemu_coroutine_yield();
}

static void gate_begin_flush(void *opaque)
{
    GateFlushList *list = opaque;
    BlkCancelLoad load = {};

    while (blk_cancel_next_load(&load)) {
        GateFlush *f = g_new0(GateFlush, 1);

        QSLIST_INSERT_HEAD(list, f, next);
        f->acb = blk_cancel_probe_flush(&load, gate_flush_cb, f);
    }
}

/* Flush all; what has not ended by @deadline is abandoned. */
static void coroutine_fn gate_co_flush(int64_t deadline)
{
    GateFlushList list = QSLIST_HEAD_INITIALIZER(list);
    GateFlush *f;

    gate_co_run(gate_begin_flush, &list);
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
 * Wait until nothing is under way.  With @patient something may be old because
 * it was in the queue of a throttle filter, which the closed gate has opened:
 * give it the time.  The requests' ends are not hooked, because
 * they come by many ways and in all threads: ask from time to time.
 */
static bool coroutine_fn gate_co_wait(GateView *v, int64_t begin,
                                      int64_t deadline, bool patient)
{
    while (gate_look(v, begin)) {
        if ((v->hangs && !patient) || get_clock() >= deadline) {
            return false;
        }
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, POLL_NS);
        if (!closed) {
            /* The VM has stopped meanwhile */
            gate_co_run(gate_close, NULL);
        }
    }
    return true;
}

static void gate_reap(void *opaque)
{
    blk_orphan_reap();
}

/* Whoever is let in next may want the image that an orphan still has. */
static void coroutine_fn gate_co_reap(void)
{
    if (blk_orphan_any()) {
        gate_co_run(gate_reap, NULL);
    }
}

/* Returns: NULL, or what stands in the way; the gate is open then */
static char *coroutine_fn gate_co_enter(bool flush)
{
    int64_t begin = get_clock();
    int64_t deadline = begin + GRACE_NS;
    bool patient = blk_cancel_filter_waits();
    GateView v = {};

    if (!blk_cancel_any()) {
        entered++;
        return NULL;
    }
    if (gate_look(&v, INT64_MAX) && v.hangs && !patient) {
        return gate_describe(&v);
    }

    entered++;
    gate_co_run(gate_close, NULL);
    if (gate_co_wait(&v, begin, deadline, patient)) {
        if (flush) {
            gate_co_flush(deadline);
        }
        if (!flush || gate_co_wait(&v, begin, deadline, patient)) {
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

    if (!blk_cancel_any()) {
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

/*
 * For what cannot be refused
 */

typedef struct GateCall {
    char *what;
    bool flush;
    AioContext *ctx;            /* where the main loop runs @cb */
    void (*cb)(void *opaque);
    void *opaque;
    Coroutine *co;              /* set once, when it begins */
    QLIST_ENTRY(GateCall) next;
} GateCall;

/* BQL; those that have begun.  QEMU may end before they do. */
static QLIST_HEAD(, GateCall) calls = QLIST_HEAD_INITIALIZER(calls);

static GateCall *gate_new_call(const char *what, bool flush, AioContext *ctx,
                               void (*cb)(void *opaque), void *opaque)
{
    GateCall *call = g_new(GateCall, 1);

    *call = (GateCall) {
        .what = g_strdup(what),
        .flush = flush,
        .ctx = ctx,
        .cb = cb,
        .opaque = opaque,
    };
    return call;
}

static void gate_free_call(GateCall *call)
{
    g_free(call->what);
    g_free(call);
}

static void gate_say_waits(GateCall *call, const char *why)
{
    warn_report("'%s' waits for storage that hangs: %s", call->what, why);
    qapi_event_send_block_gate_wait(call->what, why);
}

static void coroutine_fn gate_call_entry(void *opaque)
{
    GateCall *call = opaque;
    int64_t next_ns = 0;
    char *why;

    call->co = qemu_coroutine_self();
    QLIST_INSERT_HEAD(&calls, call, next);
    while ((why = gate_co_enter(call->flush))) {
        if (get_clock() >= next_ns) {
            next_ns = get_clock() + WARN_NS;
            gate_say_waits(call, why);
        }
        g_free(why);
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, RETRY_NS);
    }

    gate_co_run(call->cb, call->opaque);
    blk_gate_leave();
    QLIST_REMOVE(call, next);
    gate_free_call(call);
}

void blk_gate_call(const char *what, bool flush, void (*cb)(void *opaque),
                   void *opaque)
{
    /* Nested event loops do not run what is in this context */
    AioContext *ctx = iohandler_get_aio_context();
    GLOBAL_STATE_CODE();

    if (blk_cancel_any()) {
        aio_co_schedule(ctx, qemu_coroutine_create(gate_call_entry,
                                                   gate_new_call(what, flush,
                                                                 ctx, cb,
                                                                 opaque)));
    } else {
        cb(opaque);
    }
}

/* Context: main loop; only here it is known whether the gate is needed */
static void gate_schedule_bh(void *opaque)
{
    GateCall *call = opaque;

    if (blk_cancel_any()) {
        aio_co_enter(call->ctx, qemu_coroutine_create(gate_call_entry, call));
    } else {
        call->cb(call->opaque);
        gate_free_call(call);
    }
}

void blk_gate_schedule(const char *what, void (*cb)(void *opaque),
                       void *opaque)
{
    AioContext *ctx = qemu_get_aio_context();

    aio_bh_schedule_oneshot(ctx, gate_schedule_bh,
                            gate_new_call(what, false, ctx, cb, opaque));
}
