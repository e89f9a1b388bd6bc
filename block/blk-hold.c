/*
 * Holding disks, so that a command that needs I/O to be over has none to wait
 * for; and what it means that storage hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * To hold a disk is a drained section without its dangers: requests that come
 * are parked just the same, but nobody polls for those in flight with the BQL
 * held.  What is held first are disks that seem to hang, alone.
 *
 * Storage hangs if it makes no progress: of all that is held something is with
 * the storage, and nothing of it has ended for some seconds.  How old a request
 * is says nothing: storage may be slow.
 *
 * Hooks: block/io.c (when a node's request began), system/cpus.c (the VM
 * stops); the callers are those of blk-hold.h.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "block/aio.h"
#include "block/blk-cancel.h"
#include "block/blk-cancel-graph.h"
#include "block/blk-cancel-hold.h"
#include "block/blk-hold.h"
#include "block/blk-orphan.h"
#include "block/block.h"
#include "system/block-backend.h"
#include "trace/trace-block_cancel.h"

/* Of BLK_HOLD_DEFAULT_TIMEOUT_MS these are 20, 5, 5 and 10 s */
#define TIMEOUT_NS  (blk_hold_timeout_ms * (int64_t)SCALE_MS)
#define STALL_NS    (TIMEOUT_NS / 4)                /* without progress */
#define SUSPECT_NS  (TIMEOUT_NS / 4)                /* held first, and alone */
#define OTHERS_NS   (TIMEOUT_NS / 2)                /* healthy disks are held */

#define LONG_NS     (TIMEOUT_NS / 20)               /* it was hard to get */
#define HELD_MS     3000                            /* a command's own time */
#define KEPT_MS     250                             /* for the next command */
#define POLL_NS     (1 * SCALE_MS)
#define RETRY_NS    (100 * SCALE_MS)

/* BQL */
uint32_t blk_hold_timeout_ms = BLK_HOLD_DEFAULT_TIMEOUT_MS;

/* BQL */
static unsigned int holders;    /* blk_hold_co_begin() without its end */
static bool all_held;
static bool vm_stops;           /* devices wait for their requests */
static QEMUTimer *timer;        /* lets go by itself */
static int64_t others_rest_ns;  /* not before then are they held again */
static int64_t keep_ns;         /* until then they are not let go at once */
static NotifierList stop_notifiers =
    NOTIFIER_LIST_INITIALIZER(stop_notifiers);

/* What stands in the way */
typedef struct HoldView {
    BlkCancelLoad disk;         /* .in_flight is false if none does */
    unsigned int others;        /* disks like it */
    unsigned int disks;         /* all that were looked at */
    BlkNodeLoad node;           /* somebody else's requests, if no disk does */
    unsigned int epoch;         /* of the latest that count; 0: all, no names */

    /* Of all that was looked at; no change means no progress */
    uint64_t ended;
    unsigned int node_requests;
    bool slow;                  /* only operations that may take long */
} HoldView;

/*
 * BQL; what of this epoch is still there was found to hang.  0: nothing was.
 */
static unsigned int hung_epoch;

/*
 * Looking
 */

/*
 * hold_look:
 * @held: only at disks that are held; otherwise at all, and at what others ask
 * of the same nodes
 *
 * Returns: whether anything is under way
 */
static bool hold_look(HoldView *v, bool held)
{
    BlkCancelLoad load = {};
    BlkNodeLoad node = {};
    unsigned int issued = 0, slow = 0;

    *v = (HoldView) { .epoch = v->epoch };
    while (blk_cancel_next_load(&load)) {
        if (held && !load.held) {
            continue;
        }
        v->disks++;
        v->ended += load.ended;
        if (!load.in_flight) {
            continue;
        }
        issued += load.issued;
        slow += load.slow;
        v->others += v->disk.in_flight;
        if (!v->disk.in_flight || load.oldest_ns > v->disk.oldest_ns) {
            v->disk = load;
        }
    }
    v->slow = slow && slow == issued;
    while (!held && blk_cancel_next_node(&node, v->epoch ?: UINT_MAX)) {
        if (node.cancels && node.requests) {
            v->node_requests += node.requests;
            v->node = node;
        }
    }
    return v->disk.in_flight || v->node_requests;
}

bool blk_hold_is_idle(void)
{
    HoldView v = {};

    return !hold_look(&v, false);
}

/* All that is under way began before this; what comes is told apart. */
static unsigned int hold_next_epoch(void)
{
    unsigned int epoch = blk_cancel_epoch;

    qatomic_set(&blk_cancel_epoch, epoch + 1);
    return epoch;
}

/* Whether what was found to hang is still there; then it need not be held. */
static bool hold_look_hung(HoldView *v)
{
    BlkNodeLoad node = {};

    while (hung_epoch && blk_cancel_next_node(&node, hung_epoch)) {
        if (node.cancels && node.requests) {
            v->epoch = hung_epoch;
            return hold_look(v, false);
        }
    }
    hung_epoch = 0;
    return false;
}

/* Storage that nobody waits for just now */
static void hold_ask(BlkCancelAsk *ask)
{
    BlkCancelLoad load = {};

    while (blk_cancel_next_load(&load)) {
        if (!load.in_flight && blk_bs(load.blk)) {
            blk_cancel_ask(blk_bs(load.blk), ask);
        }
    }
}

/* Whether a request has been with the storage for long: it may hang, or not. */
static bool hold_look_suspect(HoldView *v)
{
    hold_look(v, false);
    return v->disk.oldest_ns >= SUSPECT_NS;
}

/*
 * Describing it
 */

/* The name that the user has given the disk, or one to find it by */
static char *hold_disk_name(BlockBackend *blk)
{
    g_autofree char *dev = blk_get_attached_dev_id(blk);
    const char *id = dev;

    if (blk_orphan_id(blk)) {
        dev[strcspn(dev, " ")] = '\0';
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

/*
 * The node that does not answer: it need not be the disk's own, but a job's
 * target that the disk's writes go to as well.
 */
static BlockDriverState *hold_find_node(const HoldView *v)
{
    BlockDriverState *found = v->disk.in_flight ? NULL : v->node.bs;
    BlkNodeLoad node = {};

    while (v->epoch && blk_cancel_next_node(&node, v->epoch)) {
        if (node.is_leaf && node.requests) {
            return node.bs;
        }
        if (node.requests && !found) {
            found = node.bs;
        }
    }
    return found;
}

static char *hold_describe_node(BlockDriverState *bs)
{
    return g_strdup_printf("node '%s' does not answer", bdrv_get_node_name(bs));
}

static char *hold_describe(const HoldView *v)
{
    BlockDriverState *bs = hold_find_node(v);
    g_autofree char *node = bs ? hold_describe_node(bs) : NULL;
    GString *s = g_string_new(node);

    if (v->disk.in_flight) {
        g_autofree char *name = hold_disk_name(v->disk.blk);

        g_string_append_printf(s, "%sdisk '%s'%s ", bs ? "; " : "", name,
                               blk_orphan_id(v->disk.blk) ? ", now unplugged,"
                                                          : "");
        if (v->disk.issued) {
            g_string_append_printf(s, "has %u request%s with the storage, %u "
                                   "of them abandoned, the oldest for %.1f s",
                                   v->disk.issued,
                                   v->disk.issued == 1 ? "" : "s",
                                   v->disk.abandoned, v->disk.oldest_ns /
                                   (double)NANOSECONDS_PER_SECOND);
        } else {
            /* Its device has asked where blocks are allocated */
            g_string_append(s, "waits for an answer of the storage");
        }
    }
    if (v->others) {
        g_string_append_printf(s, " (and %u more disk%s)", v->others,
                               v->others == 1 ? "" : "s");
    }
    return g_string_free(s, false);
}

static void hold_refuse(const char *what, const char *why, Error **errp)
{
    trace_blk_hold_refused(what, why);
    error_setg(errp, "'%s' would wait for storage that hangs: %s; try again "
               "when the storage answers", what, why);
}

char *blk_hold_describe(void)
{
    BlkCancelAsk ask = {};
    HoldView v = {};
    GLOBAL_STATE_CODE();

    if (hold_look_hung(&v)) {
        return hold_describe(&v);
    }
    /* To wait is not possible here: what has been taken back may well hang */
    v.epoch = 0;
    if (hold_look_suspect(&v) || v.disk.abandoned) {
        return hold_describe(&v);
    }
    hold_ask(&ask);
    return ask.longest_ns >= STALL_NS ? hold_describe_node(ask.bs) : NULL;
}

bool blk_hold_check(const char *what, Error **errp)
{
    g_autofree char *why = blk_hold_describe();

    if (why) {
        hold_refuse(what, why, errp);
    }
    return !why;
}

bool blk_hold_allows(const char *what)
{
    Error *err = NULL;

    if (!holders && !blk_hold_check(what, &err)) {
        error_report_err(err);
        return false;
    }
    return true;
}

/*
 * Holding, and letting go
 */

static void hold_let_go(void *opaque)
{
    trace_blk_hold_end(holders);
    all_held = false;
    if (timer) {
        timer_del(timer);
    }
    blk_cancel_unhold();
}

static void hold_suspects(void *opaque)
{
    BlkCancelLoad load = {};

    while (!vm_stops && blk_cancel_next_load(&load)) {
        if (load.oldest_ns >= SUSPECT_NS) {
            blk_cancel_hold(load.blk);
        }
    }
}

static void hold_all(void *opaque)
{
    /* What comes while the VM stops must not be kept beyond the stop's end */
    if (!vm_stops) {
        trace_blk_hold_begin(holders);
        all_held = true;
        blk_cancel_hold(NULL);
    }
}

static void hold_arm_timer(int ms)
{
    if (!timer) {
        /* Runs in nested event loops, too */
        timer = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME,
                              SCALE_MS, hold_let_go, NULL);
    }
    timer_mod(timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + ms);
}

void blk_hold_end(bool failed)
{
    GLOBAL_STATE_CODE();
    assert(holders);

    blk_cancel_end_errors(failed);
    if (--holders) {
        return;
    }
    if (all_held && get_clock() < keep_ns) {
        /* Commands come in a row, as jobs' ends do: not to wait for each */
        hold_arm_timer(KEPT_MS);
    } else {
        hold_let_go(NULL);
    }
}

bool blk_hold_is_on(void)
{
    return holders;
}

void blk_hold_add_stop_notifier(Notifier *notifier)
{
    GLOBAL_STATE_CODE();
    notifier_list_add(&stop_notifiers, notifier);
}

void blk_hold_vm_stops(void)
{
    GLOBAL_STATE_CODE();
    vm_stops = true;
    if (all_held) {
        notifier_list_notify(&stop_notifiers, NULL);
    }
    hold_let_go(NULL);
}

void blk_hold_vm_stopped(void)
{
    GLOBAL_STATE_CODE();
    vm_stops = false;
}

/*
 * Beginning it
 */

/*
 * A coroutine that another one starts or wakes runs in that one's AioContext,
 * and drivers count on theirs to be the one that they run in.  So what starts
 * or wakes requests is called here, outside the holder's own coroutine.
 */
typedef struct HoldRun {
    void (*fn)(void *opaque);
    void *opaque;
    Coroutine *co;
} HoldRun;

static void hold_run_bh(void *opaque)
{
    HoldRun *run = opaque;

    run->fn(run->opaque);
    aio_co_wake(run->co);
}

void coroutine_fn blk_hold_co_run(void (*fn)(void *opaque), void *opaque)
{
    HoldRun run = { fn, opaque, qemu_coroutine_self() };

    aio_bh_schedule_oneshot(qemu_coroutine_get_aio_context(run.co),
                            hold_run_bh, &run);
    qemu_coroutine_yield();
}

/*
 * What has not ended in time is left alone.  An error is kept for the flush
 * that the command will do, which fails as it would have without this one.
 */
static void coroutine_fn hold_flush_entry(void *opaque)
{
    BlockBackend *blk = opaque;
    int ret = blk_co_flush(blk);

    /* @blk is there as long as it has something in flight, for this thread */
    blk_inc_in_flight(blk);
    blk_cancel_co_keep_flush_error(blk, ret);
    blk_dec_in_flight(blk);
}

/*
 * In the main loop's AioContext, which outlives those of unplugged disks.  They
 * are counted in flight at once, and not while a drained section has them wait:
 * another command may be about to begin one.
 */
static void hold_begin_flush(void *opaque)
{
    BlkCancelLoad load = {};

    while (blk_cancel_next_load(&load)) {
        qemu_coroutine_enter(qemu_coroutine_create(hold_flush_entry,
                                                   load.blk));
    }
}

/* One try; on the stack of its coroutine */
typedef struct HoldTry {
    HoldView view;
    int64_t deadline;
    bool flushes;               /* what is under way are flushes */
    bool hangs;                 /* it has failed for want of progress */
} HoldTry;

/*
 * Wait until nothing is under way.  The requests' ends are not hooked, because
 * they come by many ways and in all threads: ask from time to time.
 */
static bool coroutine_fn hold_co_wait(HoldTry *t, bool held, int64_t end)
{
    HoldView *v = &t->view;
    int64_t now = get_clock(), progress_ns = now;
    HoldView last;
    bool slow;

    for (last = *v; hold_look(v, held); last = *v, now = get_clock()) {
        /* A flush or a discard may take as long as all this may */
        slow = v->slow || t->flushes;
        if (v->ended != last.ended || v->node_requests != last.node_requests ||
            slow) {
            progress_ns = now;
        }
        t->hangs = now - progress_ns >= STALL_NS ||
                   (slow && now >= t->deadline);
        if (t->hangs || now >= end) {
            return false;
        }
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, POLL_NS);
        if (!held && !all_held) {
            /* The VM has stopped meanwhile */
            blk_hold_co_run(hold_all, NULL);
        }
    }
    return true;
}

/* Wait until all that are idle have answered.  Returns: which one hangs */
static BlockDriverState *coroutine_fn hold_co_ask(void)
{
    int64_t begin = get_clock();
    BlkCancelAsk ask;

    for (;;) {
        ask = (BlkCancelAsk) { .since_ns = begin };
        hold_ask(&ask);
        if (!ask.shortest_ns || ask.shortest_ns >= STALL_NS) {
            return ask.bs;
        }
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, POLL_NS);
    }
}

void coroutine_fn blk_hold_co_ask_file(const char *filename)
{
#ifdef CONFIG_POSIX
    blk_cancel_co_ask_file(filename, STALL_NS);
#endif
}

/* Disks that may hang are held alone until they are idle. */
static bool coroutine_fn hold_co_suspects(HoldTry *t)
{
    while (hold_look_suspect(&t->view)) {
        blk_hold_co_run(hold_suspects, NULL);
        if (!hold_co_wait(t, true, t->deadline)) {
            return false;
        }
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, POLL_NS);
    }
    return true;
}

/* So that what hangs does not stop the others for long, and time and again */
static int64_t coroutine_fn hold_co_spare_others(HoldTry *t)
{
    if (t->view.disks < 2) {
        return t->deadline;
    }
    while (get_clock() < MIN(others_rest_ns, t->deadline)) {
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, RETRY_NS);
    }
    return MIN(t->deadline, get_clock() + OTHERS_NS);
}

static bool coroutine_fn hold_co_all(HoldTry *t, bool flush)
{
    int64_t end = hold_co_spare_others(t);
    bool ok;

    blk_hold_co_run(hold_all, NULL);
    ok = hold_co_wait(t, false, end);
    if (ok && flush) {
        blk_hold_co_run(hold_begin_flush, NULL);
        t->flushes = true;
        ok = hold_co_wait(t, false, end);
    }
    if (!ok) {
        others_rest_ns = get_clock() + OTHERS_NS;
    }
    return ok;
}

static void hold_reap(void *opaque)
{
    blk_orphan_reap();
}

char *coroutine_fn blk_hold_co_try(unsigned int flags)
{
    BlockDriverState *silent;
    HoldTry t = {};
    int64_t begin;

    if (!blk_cancel_any()) {
        holders++;
        return NULL;
    }
    if (hold_look_hung(&t.view)) {
        return hold_describe(&t.view);
    }
    silent = flags & BLK_HOLD_ASK ? hold_co_ask() : NULL;
    if (silent && flags & BLK_HOLD_SURE) {
        return hold_describe_node(silent);
    }

    if (holders++ == 0 && timer) {
        timer_del(timer);
    }
    begin = get_clock();
    t.deadline = begin + TIMEOUT_NS;
    t.view.epoch = hold_next_epoch();
    if (hold_co_suspects(&t) && hold_co_all(&t, flags & BLK_HOLD_FLUSH)) {
        hold_arm_timer(HELD_MS);
        if (get_clock() - begin >= LONG_NS) {
            keep_ns = 2 * get_clock() - begin;
        }
        blk_cancel_begin_errors();
        if (blk_orphan_any()) {
            /* Who comes next may want the image that an orphan still has */
            blk_hold_co_run(hold_reap, NULL);
        }
        return NULL;
    }
    if (t.hangs) {
        hung_epoch = hold_next_epoch();
    }
    keep_ns = 0;
    blk_hold_end(false);
    return hold_describe(&t.view);
}

bool coroutine_fn blk_hold_co_begin(const char *what, unsigned int flags,
                                    Error **errp)
{
    g_autofree char *why = NULL;
    GLOBAL_STATE_CODE();

    why = blk_hold_co_try(flags);
    if (why) {
        hold_refuse(what, why, errp);
    }
    return !why;
}
