/*
 * BlockBackends that outlive their device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See blk-orphan.h for what an orphan is.  It is not only the disk that hangs:
 * a disk whose requests have all ended leaves the graph behind the lock that a
 * hung reader of any other disk holds.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "block/aio.h"
#include "block/blk-cancel_int.h"
#include "block/blk-hold.h"
#include "block/blk-orphan.h"
#include "block/block.h"
#include "hw/qdev-core.h"
#include "system/block-backend.h"
#include "trace/trace-block_cancel.h"

/* BQL */
struct BlkOrphan {
    BlockBackend *blk;
    char *id;                   /* NULL until the device has left */
    int64_t since_ns;
    GSList *held;               /* references to IOThreads */
    QTAILQ_ENTRY(BlkOrphan) next;
};

/* BQL; those whose device has left */
static QTAILQ_HEAD(, BlkOrphan) orphans = QTAILQ_HEAD_INITIALIZER(orphans);

/* BQL; all that live, without a reference */
static GSList *iothreads;

void blk_orphan_iothread_begins(Object *iothread)
{
    iothreads = g_slist_prepend(iothreads, iothread);
}

void blk_orphan_iothread_ends(Object *iothread)
{
    iothreads = g_slist_remove(iothreads, iothread);
}

/* Whether it is the user's; "object-del" may have taken its name away */
static bool orphan_may_use(Object *iothread)
{
    return !iothread->parent || iothread->parent == object_get_objects_root();
}

/* Which IOThreads its abandoned requests run in is not known here: hold all */
static void orphan_new(BlockBackend *blk)
{
    BlkOrphan *o = g_new0(BlkOrphan, 1);

    o->blk = blk;
    for (GSList *l = iothreads; l; l = l->next) {
        if (orphan_may_use(l->data)) {
            o->held = g_slist_prepend(o->held, object_ref(l->data));
        }
    }
    *blk_orphan_slot(blk) = o;
}

bool blk_orphan_begin(BlockBackend *blk)
{
    GLOBAL_STATE_CODE();

    if (!*blk_orphan_slot(blk)) {
        if (blk_hold_is_idle()) {
            blk_set_cancel(blk, NULL, &error_abort);
            return false;
        }
        orphan_new(blk);
    }
    return true;
}

bool blk_orphan_begun(BlockBackend *blk)
{
    GLOBAL_STATE_CODE();
    return *blk_orphan_slot(blk);
}

/* The device may have left its place in the QOM tree already */
static char *orphan_name(BlockBackend *blk)
{
    DeviceState *dev = blk_get_attached_dev(blk);
    const char *name = dev->id ?: dev->canonical_path ?: blk_name(blk);
    static unsigned int number;

    return g_strdup_printf("%s (unplugged #%u)", name, ++number);
}

static void orphan_let_go(BlkOrphan *o)
{
    BlockBackend *blk = o->blk;

    trace_blk_orphan_let_go(blk, o->id, get_clock() - o->since_ns);
    QTAILQ_REMOVE(&orphans, o, next);

    /* Unless it has a device again, which has seen to all this */
    if (!blk_get_attached_dev(blk)) {
        blk_set_aio_context(blk, qemu_get_aio_context(), NULL);
        blk_set_cancel(blk, NULL, &error_abort);
        blk_set_perm(blk, 0, BLK_PERM_ALL, &error_abort);
    }
    *blk_orphan_slot(blk) = NULL;
    blk_unref(blk);

    /* Nothing of @blk is in their AioContexts any more */
    g_slist_free_full(o->held, object_unref);
    g_free(o->id);
    g_free(o);
}

void blk_orphan_reap(void)
{
    BlkOrphan *o;
    GLOBAL_STATE_CODE();

    while ((o = QTAILQ_FIRST(&orphans))) {
        orphan_let_go(o);
    }
}

static void orphan_hold_cb(void *opaque)
{
    /* Whoever has held the disks before may have done it */
    blk_orphan_reap();
}

static void orphan_wait_bh(void *opaque)
{
    g_autofree char *what = opaque;

    blk_hold_call(what, BLK_HOLD_ASK, orphan_hold_cb, NULL);
}

void blk_orphan_adopt(BlockBackend *blk)
{
    BlkOrphan *o = *blk_orphan_slot(blk);
    GLOBAL_STATE_CODE();

    if (!o) {
        bool leaves = *blk_cancel_slot(blk) || blk_get_refcnt(blk) == 1;

        if (!leaves || !blk_orphan_begin(blk)) {
            return;
        }
        o = *blk_orphan_slot(blk);
    }
    if (o->id) {
        /* A second device has come and gone; what there is serves both */
        return;
    }

    blk_ref(blk);
    o->id = orphan_name(blk);
    o->since_ns = get_clock();
    QTAILQ_INSERT_TAIL(&orphans, o, next);
    trace_blk_orphan_adopt(blk, o->id);

    /* Nested event loops, which the main loop may be in, do not run this */
    aio_bh_schedule_oneshot(iohandler_get_aio_context(), orphan_wait_bh,
                            g_strdup_printf("removal of %s", o->id));
}

bool blk_orphan_any(void)
{
    return !QTAILQ_EMPTY(&orphans);
}

const char *blk_orphan_id(BlockBackend *blk)
{
    BlkOrphan *o = *blk_orphan_slot(blk);

    return o ? o->id : NULL;
}
