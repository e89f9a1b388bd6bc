/*
 * SCSI disks whose commands can be taken back while the storage hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What takes I/O back is in block/blk-cancel.c.  Here is what that means for
 * the command:
 *
 * - one that is cancelled while its last I/O has succeeded already ends with
 *   its status, and not as aborted;
 * - one whose I/O cannot be abandoned stays in the list of its device, so that
 *   the next task management function finds it as well, and waits for it;
 * - a reset cancels all commands, each in its own AioContext, and does not
 *   drain the BlockBackend.
 *
 * Commands are a chain of I/O - the pieces of a scatter/gather list or of a
 * WRITE SAME, the ranges of an UNMAP, the flush around an access with FUA - of
 * which one is with the BlockBackend at a time.  A cancel ends the chain there.
 *
 * Hooks: scsi-bus.c, scsi-disk.c, virtio-scsi.c.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/rcu.h"
#include "qemu/rcu_queue.h"
#include "qapi/error.h"
#include "block/aio-wait.h"
#include "block/blk-cancel-hold.h"
#include "block/blk-orphan.h"
#include "hw/block/cancel-after.h"
#include "hw/scsi/scsi-cancel.h"
#include "system/block-backend.h"
#include "trace/trace-block_cancel.h"

/* A reset that took less is not worth a warning; it also limits their rate. */
#define WARN_NS (100 * SCALE_MS)

bool scsi_cancel_realize(SCSIDevice *s, Error **errp)
{
    ERRP_GUARD();
    BlkCancelOptions opts = BLK_CANCEL_OPTIONS(s->cancel.budget);

    if (s->cancel.on && !blk_set_cancel(s->conf.blk, &opts, errp)) {
        error_prepend(errp, "cancel=on is not possible: ");
        error_append_hint(errp, "Use cancel=off.\n");
        return false;
    }
    return true;
}

void scsi_cancel_unrealize(SCSIDevice *s)
{
    if (s->cancel.on) {
        blk_orphan_begin(s->conf.blk);
    }
}

/*
 * One command
 */

bool scsi_cancel_command(SCSIRequest *req)
{
    if (!req->dev->cancel.on) {
        return false;
    }
    req->cancel_yields = true;
    return true;
}

void scsi_cancel_abort(SCSIRequest *req, Notifier *notifier)
{
    BlkCancelOutcome outcome = BLK_CANCEL_COMPLETED;

    scsi_req_ref(req);
    scsi_req_cancel_async(req, notifier);
    if (req->enqueued) {
        outcome = BLK_CANCEL_REFUSED;
    } else if (req->io_canceled) {
        outcome = BLK_CANCEL_CANCELED;
    }
    if (req->dev->cancel.on) {
        blk_cancel_account(req->dev->conf.blk, outcome);
    }
    scsi_req_unref(req);
}

bool scsi_cancel_refuses(SCSIRequest *req)
{
    SCSIDevice *s = req->dev;

    if (!req->enqueued || !cancel_too_early(req->aiocb, s->cancel.after_ms)) {
        return false;
    }
    blk_cancel_account(s->conf.blk, BLK_CANCEL_REFUSED);
    return true;
}

void scsi_cancel_abort_missed(SCSIDevice *s)
{
    if (s->cancel.on) {
        blk_cancel_account(s->conf.blk, BLK_CANCEL_NOT_FOUND);
    }
}

void scsi_cancel_settle(SCSIRequest *req, bool done)
{
    if (done && req->io_canceled && req->cancel_yields) {
        trace_scsi_cancel_settle(req->dev->id, req->lun, req->tag);
        req->io_canceled = false;

        /* Taken in scsi_req_cancel_async() */
        scsi_req_unref(req);
    }
}

/*
 * A block driver may return -ECANCELED by itself.  Whoever has cancelled the
 * command cannot tell that from what it has asked for.
 */
bool scsi_was_canceled(SCSIRequest *req, int ret)
{
    return req->dev->cancel.on && req->io_canceled && ret == -ECANCELED;
}

void scsi_cancel_account(SCSIRequest *req, int ret)
{
    if (scsi_was_canceled(req, ret)) {
        block_acct_canceled(blk_get_stats(req->dev->conf.blk));
    }
}

/*
 * All commands of a device
 */

/* What a BH gets and returns; its creator waits for it. */
typedef struct SCSICancelPurge {
    SCSIDevice *s;
    unsigned int left;      /* commands that could not be taken back */
} SCSICancelPurge;

static void scsi_cancel_unref(gpointer req)
{
    scsi_req_unref(req);
}

/* Returns: the commands of this thread, each with a reference */
static GPtrArray *scsi_cancel_commands(SCSIDevice *s)
{
    GPtrArray *reqs = g_ptr_array_new_with_free_func(scsi_cancel_unref);
    AioContext *ctx = qemu_get_current_aio_context();
    SCSIRequest *req;

    QEMU_LOCK_GUARD(&s->requests_lock);
    QTAILQ_FOREACH(req, &s->requests, next) {
        if (req->ctx == ctx) {
            g_ptr_array_add(reqs, scsi_req_ref(req));
        }
    }
    return reqs;
}

/* One that could not be taken back may have gone on to its next I/O since */
static void scsi_cancel_again(SCSIRequest *req)
{
    if (req->io_canceled) {
        blk_aio_cancel_async(req->aiocb);
    } else {
        scsi_req_cancel_async(req, NULL);
    }
}

/* Context: BH in an AioContext that has commands of the device */
static void scsi_cancel_purge_bh(void *opaque)
{
    SCSICancelPurge *purge = opaque;
    SCSIDevice *s = purge->s;
    g_autoptr(GPtrArray) reqs = scsi_cancel_commands(s);

    for (unsigned int i = 0; i < reqs->len; i++) {
        SCSIRequest *req = g_ptr_array_index(reqs, i);

        /* The end of one may have let another one that waited for it end */
        if (req->enqueued) {
            scsi_cancel_again(req);
            purge->left += req->enqueued;
        }
    }
    trace_scsi_cancel_purge(s->id, s->lun, reqs->len, purge->left);
}

/* The AioContexts that have commands of @s, as a set. */
static GHashTable *scsi_cancel_contexts(SCSIDevice *s)
{
    GHashTable *contexts = g_hash_table_new(NULL, NULL);
    SCSIRequest *req;

    QEMU_LOCK_GUARD(&s->requests_lock);
    QTAILQ_FOREACH(req, &s->requests, next) {
        g_hash_table_add(contexts, req->ctx);
    }
    return contexts;
}

/* Returns: how many commands could not be taken back */
static unsigned int scsi_cancel_all(SCSIDevice *s)
{
    g_autoptr(GHashTable) contexts = scsi_cancel_contexts(s);
    SCSICancelPurge purge = { .s = s };
    GHashTableIter iter;
    gpointer ctx;

    if (g_hash_table_remove(contexts, qemu_get_current_aio_context())) {
        scsi_cancel_purge_bh(&purge);
    }
    if (!g_hash_table_size(contexts)) {
        return purge.left;
    }

    /*
     * While this waits for other threads, the main loop runs: keep it from
     * serving the HBA's queues, as a drained section does.  A guest could nest
     * one reset in another otherwise.
     */
    scsi_device_drained_begin(s);
    g_hash_table_iter_init(&iter, contexts);
    while (g_hash_table_iter_next(&iter, &ctx, NULL)) {
        aio_wait_bh_oneshot(ctx, scsi_cancel_purge_bh, &purge);
    }
    scsi_device_drained_end(s);
    return purge.left;
}

static void scsi_cancel_waited(SCSIDevice *s, unsigned int left, int64_t ns)
{
    trace_scsi_cancel_drained(s->id, s->lun, left, ns);

    if (ns >= WARN_NS) {
        g_autofree char *path = object_get_canonical_path(OBJECT(s));

        warn_report("the reset of %s had to wait %" PRId64 " ms for commands "
                    "that cannot be abandoned: %u", path, ns / SCALE_MS, left);
    }
}

bool scsi_cancel_purge(SCSIDevice *s)
{
    unsigned int ended = blk_cancel_refused_ended();
    int64_t start = get_clock();
    unsigned int left, first_left;

    if (!s->cancel.on) {
        return false;
    }

    left = first_left = scsi_cancel_all(s);
    if (!left) {
        return true;
    }

    /*
     * Wait for these alone: draining the BlockBackend would be to wait for what
     * has been abandoned.
     */
    trace_scsi_cancel_drain(s->id, s->lun, left);
    scsi_device_drained_begin(s);
    while (left) {
        AIO_WAIT_WHILE_UNLOCKED(NULL, blk_cancel_refused_ended() == ended);
        ended = blk_cancel_refused_ended();
        left = scsi_cancel_all(s);
    }
    scsi_device_drained_end(s);
    scsi_cancel_waited(s, first_left, get_clock() - start);
    return true;
}

/* Returns: the devices of @bus that may have something in flight */
static GPtrArray *scsi_cancel_devices(SCSIBus *bus)
{
    GPtrArray *devs = g_ptr_array_new_with_free_func(object_unref);
    BusChild *kid;

    RCU_READ_LOCK_GUARD();
    QTAILQ_FOREACH_RCU(kid, &bus->qbus.children, sibling) {
        /* One that is not realized leaves with the HBA */
        if (qdev_is_realized(DEVICE(kid->child))) {
            g_ptr_array_add(devs, object_ref(OBJECT(kid->child)));
        }
    }
    return devs;
}

bool scsi_cancel_stop(SCSIBus *bus)
{
    g_autoptr(GPtrArray) devs = NULL;

    /* The disk that hangs may be on another bus, or another model's */
    if (!blk_cancel_any()) {
        return false;
    }

    devs = scsi_cancel_devices(bus);
    for (unsigned int i = 0; i < devs->len; i++) {
        SCSIDevice *s = SCSI_DEVICE(g_ptr_array_index(devs, i));

        if (!scsi_cancel_purge(s) && s->conf.blk) {
            blk_drain(s->conf.blk);
        }
    }
    return true;
}

void scsi_cancel_late(SCSIBus *bus)
{
    g_autoptr(GPtrArray) devs = scsi_cancel_devices(bus);

    for (unsigned int i = 0; i < devs->len; i++) {
        scsi_cancel_purge(SCSI_DEVICE(g_ptr_array_index(devs, i)));
    }
}
