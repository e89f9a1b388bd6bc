/*
 * Holding disks for what is no coroutine: it waits, or is called later
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * No hooks; the callers are those of blk-hold.h.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-events-block-hung.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "block/aio.h"
#include "block/blk-hold.h"

#define RETRY_NS    (100 * SCALE_MS)
#define WARN_NS     (30 * NANOSECONDS_PER_SECOND)

/*
 * For those that cannot wait in a coroutine
 */

typedef struct HoldBegin {
    const char *what;
    unsigned int flags;
    Error **errp;
    bool ok;
    QemuSemaphore over;
} HoldBegin;

static void coroutine_fn hold_begin_entry(void *opaque)
{
    HoldBegin *b = opaque;

    b->ok = blk_hold_co_begin(b->what, b->flags, b->errp);
    qemu_sem_post(&b->over);
}

bool blk_hold_begin(const char *what, unsigned int flags, Error **errp)
{
    HoldBegin b = { .what = what, .flags = flags, .errp = errp };
    GLOBAL_STATE_CODE();

    qemu_sem_init(&b.over, 0);
    aio_co_schedule(iohandler_get_aio_context(),
                    qemu_coroutine_create(hold_begin_entry, &b));
    bql_unlock();
    qemu_sem_wait(&b.over);
    bql_lock();
    qemu_sem_destroy(&b.over);
    return b.ok;
}

/*
 * For what cannot be refused
 */

typedef struct HoldCall {
    char *what;
    unsigned int flags;
    AioContext *ctx;            /* where the main loop runs @cb */
    void (*cb)(void *opaque);
    void *opaque;
    QLIST_ENTRY(HoldCall) next;
} HoldCall;

/* BQL; those that have begun.  QEMU may end before they do. */
static QLIST_HEAD(, HoldCall) calls = QLIST_HEAD_INITIALIZER(calls);

static void hold_free_call(HoldCall *call)
{
    g_free(call->what);
    g_free(call);
}

static void coroutine_fn hold_call_entry(void *opaque)
{
    HoldCall *call = opaque;
    int64_t next_ns = 0;
    char *why;

    QLIST_INSERT_HEAD(&calls, call, next);
    while ((why = blk_hold_co_try(call->flags))) {
        if (get_clock() >= next_ns) {
            next_ns = get_clock() + WARN_NS;
            warn_report("'%s' waits for storage that hangs: %s", call->what,
                        why);
            qapi_event_send_block_hold_wait(call->what, why);
        }
        g_free(why);
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, RETRY_NS);
    }

    blk_hold_co_run(call->cb, call->opaque);
    blk_hold_end(false);
    QLIST_REMOVE(call, next);
    hold_free_call(call);
}

/* Context: main loop; only here it is known whether it must wait */
static void hold_schedule_bh(void *opaque)
{
    HoldCall *call = opaque;

    if (blk_cancel_any()) {
        aio_co_enter(call->ctx, qemu_coroutine_create(hold_call_entry, call));
    } else {
        call->cb(call->opaque);
        hold_free_call(call);
    }
}

static void hold_schedule(AioContext *ctx, const char *what, unsigned int flags,
                          void (*cb)(void *opaque), void *opaque)
{
    HoldCall *call = g_new(HoldCall, 1);

    *call = (HoldCall) {
        .what = g_strdup(what),
        .flags = flags,
        .ctx = ctx,
        .cb = cb,
        .opaque = opaque,
    };
    aio_bh_schedule_oneshot(ctx, hold_schedule_bh, call);
}

void blk_hold_call(const char *what, unsigned int flags,
                   void (*cb)(void *opaque), void *opaque)
{
    GLOBAL_STATE_CODE();

    if (blk_cancel_any()) {
        /* Nested event loops do not run what is in this context */
        hold_schedule(iohandler_get_aio_context(), what, flags, cb, opaque);
    } else {
        cb(opaque);
    }
}

void blk_hold_schedule(const char *what, void (*cb)(void *opaque),
                       void *opaque)
{
    hold_schedule(qemu_get_aio_context(), what, BLK_HOLD_ASK, cb, opaque);
}
