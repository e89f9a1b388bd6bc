/*
 * QEMU NVMe: commands that can be taken back while the storage hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A command is taken back by cancelling the block request it waits for.  With
 * cancelling on, that request's callback runs inside the call and says either
 * -ECANCELED, which ends the command in the same way as any error would, or
 * the real result if that is known already; a command of several steps then
 * goes on to the next one, which is cancelled in turn.  The callbacks free what
 * the command has used: nothing of it is looked at again.
 *
 * What the storage still does with a command that was taken back touches
 * nothing of the guest's, and later commands on the same blocks wait for it:
 * the BlockBackend sees to both.
 *
 * Hooks: ctrl.c and ns.c.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "block/accounting.h"
#include "block/aio-wait.h"
#include "block/blk-orphan.h"
#include "hw/block/cancel-after.h"
#include "system/block-backend.h"

#include "nvme.h"
#include "trace/trace-block_cancel.h"

/*
 * How often a command is asked to let go.  One that refuses does so at no cost;
 * one whose steps all have a result at once has about so many: a transfer in
 * 1024 pieces, Copy of 128 ranges in four steps, DSM of 256 in two.
 */
#define MAX_STEPS 1024

/* Waiting less is not worth a warning; it also limits their rate. */
#define WARN_NS (100 * SCALE_MS)

/* The flush of one namespace for the shutdown of a controller */
struct NvmeCancelFlush {
    NvmeCtrl *n;                /* NULL once cancelled */
    BlockAIOCB *aiocb;          /* set once */
    QLIST_ENTRY(NvmeCancelFlush) next;
};

bool nvme_cancel_ns_setup(NvmeNamespace *ns, Error **errp)
{
    ERRP_GUARD();
    BlkCancelOptions opts = BLK_CANCEL_OPTIONS(ns->params.cancel.budget);

    if (!ns->params.cancel.on) {
        return true;
    }
    if (!blk_set_cancel(ns->blkconf.blk, &opts, errp)) {
        error_prepend(errp, "cancel=on is not possible: ");
        error_append_hint(errp, "Use cancel=off.\n");
        return false;
    }
    ns->cancelling = true;

    /*
     * Errors for deallocated blocks are not on offer: QEMU would ask the
     * storage about them with the vCPUs and the monitor standing still.
     */
    ns->id_ns.nsfeat &= ~NVME_ID_NS_NSFEAT_DAE;
    return true;
}

void nvme_cancel_ns_cleanup(NvmeNamespace *ns)
{
    if (ns->cancelling) {
        ns->cancelling = false;
        blk_orphan_begin(ns->blkconf.blk);
    }
}

void nvme_cancel_exit(NvmeCtrl *n)
{
    nvme_cancel_ns_cleanup(&n->namespace);
    if (nvme_subsys_ns(n->subsys, 1) == &n->namespace) {
        n->subsys->namespaces[1] = NULL;
    }
}

bool nvme_cancel_check(NvmeCtrl *n, Error **errp)
{
    if (n->namespace.params.cancel.on && !n->namespace.blkconf.blk) {
        error_setg(errp, "cancel=on needs a drive");
        error_append_hint(errp, "Set it on the nvme-ns devices instead.\n");
        return false;
    }
    return true;
}

bool nvme_cancel_enabled(NvmeCtrl *n)
{
    /* Not only what is attached: commands outlive that */
    for (unsigned int i = 1; i <= NVME_MAX_NAMESPACES; i++) {
        NvmeNamespace *ns = nvme_subsys_ns(n->subsys, i);

        if (ns && ns->cancelling) {
            return true;
        }
    }
    return false;
}

void nvme_cancel_identify(NvmeCtrl *n)
{
    if (nvme_cancel_enabled(n)) {
        n->id_ctrl.acl = UINT8_MAX;
    }
}

static bool changes_zones(NvmeRequest *req)
{
    if (!req->ns || !req->ns->params.zoned) {
        return false;
    }

    switch (req->cmd.opcode) {
    case NVME_CMD_WRITE:
    case NVME_CMD_WRITE_ZEROES:
    case NVME_CMD_COPY:
    case NVME_CMD_ZONE_APPEND:
    case NVME_CMD_ZONE_MGMT_SEND:
        return true;
    default:
        return false;
    }
}

/*
 * Not everything that can be taken back is aborted as well.  A namespace that
 * was formatted halfway refuses all commands until it is formatted again; and
 * the host of a zoned one counts on its idea of the write pointer.
 */
static bool can_abort(NvmeRequest *req)
{
    if (!req->aiocb) {
        return false;
    }
    return req->sq->sqid ? !changes_zones(req)
                         : req->cmd.opcode != NVME_ADM_CMD_FORMAT_NVM;
}

/*
 * Between these no command is fetched.  Event loops may run there, and a
 * command in one of them may abort what is being taken back, or delete the
 * queue that it is in.
 */
static void stop_fetching(NvmeCtrl *n)
{
    n->cancel.busy++;
}

static void resume_fetching(NvmeCtrl *n)
{
    NvmeCancelCtrl *d = &n->cancel;

    if (--d->busy || !d->deferred) {
        return;
    }
    d->deferred = false;
    for (unsigned int i = 0; i < n->params.max_ioqpairs + 1; i++) {
        if (n->sq[i]) {
            qemu_bh_schedule(n->sq[i]->bh);
        }
    }
}

/*
 * Take @req back, to end with @status.
 *
 * @after_ms: if the storage has had what it waits for that long
 * Returns: _REFUSED if it has not ended, _CANCELED or _COMPLETED.
 */
static BlkCancelOutcome take_back(NvmeRequest *req, uint16_t status,
                                  uint32_t after_ms)
{
    NvmeCtrl *n = nvme_ctrl(req);
    NvmeCancelCtrl *d = &n->cancel;
    BlkCancelOutcome outcome;

    assert(!d->target);
    stop_fetching(n);
    d->target = req;
    d->status = status;
    d->canceled = false;
    for (unsigned int i = 0; d->target && i < MAX_STEPS; i++) {
        BlockAIOCB *acb = req->cancel.step ? *req->cancel.step : req->aiocb;

        if (acb && !cancel_too_early(acb, after_ms)) {
            blk_aio_cancel_async(acb);
        }
    }
    outcome = d->target   ? BLK_CANCEL_REFUSED :
              d->canceled ? BLK_CANCEL_CANCELED : BLK_CANCEL_COMPLETED;
    d->target = NULL;
    resume_fetching(n);
    return outcome;
}

bool nvme_cancel_abort(NvmeRequest *req)
{
    static const char *const name[BLK_CANCEL__MAX] = {
        [BLK_CANCEL_REFUSED]    = "cannot be abandoned",
        [BLK_CANCEL_CANCELED]   = "aborted",
        [BLK_CANCEL_COMPLETED]  = "has a result",
    };
    BlkCancelOutcome outcome = BLK_CANCEL_REFUSED;
    uint16_t sqid = req->sq->sqid;
    uint16_t cid = nvme_cid(req);
    bool possible = can_abort(req);
    NvmeNamespace *ns;

    /* A flush has none of its own; one of all namespaces is of none */
    ns = req->ns ?: nvme_ns(nvme_ctrl(req), le32_to_cpu(req->cmd.nsid));

    if (possible) {
        outcome = take_back(req, NVME_CMD_ABORT_REQ,
                            ns ? ns->params.cancel.after_ms : 0);
    }
    trace_pci_nvme_cancel_abort(sqid, cid, possible ? name[outcome]
                                                    : "cannot be aborted");
    if (ns) {
        blk_cancel_account(ns->blkconf.blk, outcome);
    }
    return outcome == BLK_CANCEL_CANCELED;
}

bool nvme_cancel_is_target(NvmeRequest *req)
{
    return nvme_ctrl(req)->cancel.target == req;
}

bool nvme_do_was_canceled(NvmeRequest *req)
{
    if (!nvme_cancel_is_target(req)) {
        return false;
    }
    nvme_ctrl(req)->cancel.canceled = true;
    if (req->ns) {
        block_acct_canceled(blk_get_stats(req->ns->blkconf.blk));
        req->acct.type = BLOCK_ACCT_NONE;
    }
    return true;
}

void nvme_cancel_ended(NvmeRequest *req)
{
    NvmeCancelCtrl *d = &nvme_ctrl(req)->cancel;

    if (d->target == req) {
        d->target = NULL;
        if (d->canceled) {
            req->status = d->status;
        }
    }
    req->aiocb = NULL;
    req->cancel.step = NULL;
    req->cancel.answered = false;
}

/* Returns: a command of @sq that can be asked in this round, or NULL */
static NvmeRequest *next_to_drop(NvmeSQueue *sq, uint64_t round)
{
    NvmeRequest *req;

    QTAILQ_FOREACH(req, &sq->out_req_list, entry) {
        if (req->aiocb && req->cancel.round != round) {
            return req;
        }
    }
    return NULL;
}

/* Returns: how many commands of @sq could not be taken back */
static unsigned int drop_sq(NvmeSQueue *sq, uint16_t status)
{
    uint64_t round = ++sq->ctrl->cancel.round;
    unsigned int dropped = 0, left = 0;
    NvmeRequest *req;

    /* Others may end meanwhile: the list is not what it was */
    while ((req = next_to_drop(sq, round))) {
        req->cancel.round = round;
        if (take_back(req, status, 0) != BLK_CANCEL_REFUSED) {
            dropped++;
        } else {
            left++;
        }
    }
    trace_pci_nvme_cancel_drop(sq->sqid, dropped, left);
    return left;
}

/* Returns: how many commands of all queues could not be taken back */
static unsigned int drop_all(NvmeCtrl *n, uint16_t status)
{
    unsigned int left = 0;

    for (unsigned int i = 0; i < n->params.max_ioqpairs + 1; i++) {
        if (n->sq[i]) {
            left += drop_sq(n->sq[i], status);
        }
    }
    return left;
}

static unsigned int drop_once(NvmeCtrl *n, NvmeSQueue *sq, uint16_t status)
{
    return sq ? drop_sq(sq, status) : drop_all(n, status);
}

/* Namespaces without cancelling: nothing of theirs can be taken back. */
static void drain_others(NvmeCtrl *n)
{
    for (unsigned int i = 1; i <= NVME_MAX_NAMESPACES; i++) {
        NvmeNamespace *ns = nvme_subsys_ns(n->subsys, i);

        if (ns && !ns->cancelling) {
            nvme_ns_drain(ns);
        }
    }
}

static void warn_waited(NvmeCtrl *n, unsigned int left, int64_t waited)
{
    if (waited >= WARN_NS) {
        g_autofree char *path = object_get_canonical_path(OBJECT(n));

        warn_report("nvme: %s had to wait %" PRId64 " ms for commands that "
                    "cannot be abandoned: %u", path, waited / SCALE_MS, left);
    }
}

/*
 * End the commands of @sq, or of all queues if it is NULL.  Waits for those
 * alone that cannot be taken back: to drain a namespace with cancelling would
 * be to wait for what has been abandoned.
 */
static void drop(NvmeCtrl *n, NvmeSQueue *sq, uint16_t status)
{
    unsigned int ended = blk_cancel_refused_ended();
    unsigned int left = drop_once(n, sq, status);
    unsigned int first_left = left;
    int64_t start = get_clock();

    if (!left) {
        return;
    }

    trace_pci_nvme_cancel_drain(left);
    stop_fetching(n);
    while (left) {
        drain_others(n);
        left = drop_once(n, sq, status);
        if (left) {
            AIO_WAIT_WHILE_UNLOCKED(NULL, blk_cancel_refused_ended() == ended);
            ended = blk_cancel_refused_ended();
            left = drop_once(n, sq, status);
        }
    }
    resume_fetching(n);
    warn_waited(n, first_left, get_clock() - start);
}

void nvme_cancel_drop_sq(NvmeSQueue *sq, uint16_t status)
{
    if (nvme_cancel_enabled(sq->ctrl)) {
        drop(sq->ctrl, sq, status);
    }
}

bool nvme_cancel_reset(NvmeCtrl *n, uint16_t status)
{
    if (!nvme_cancel_enabled(n)) {
        return false;
    }

    nvme_cancel_shutdown_stop(n);
    drop(n, NULL, status);
    return true;
}

static void flush_cb(void *opaque, int ret)
{
    NvmeCancelFlush *f = opaque;
    NvmeCtrl *n = f->n;
    uint32_t csts;

    QLIST_REMOVE(f, next);
    g_free(f);
    if (!n || !QLIST_EMPTY(&n->cancel.flushes)) {
        return;
    }

    trace_pci_nvme_cancel_shutdown_complete();
    csts = ldl_le_p(&n->bar.csts);
    csts &= ~(CSTS_SHST_MASK << CSTS_SHST_SHIFT);
    csts |= NVME_CSTS_SHST_COMPLETE;
    stl_le_p(&n->bar.csts, csts);
}

uint32_t nvme_cancel_shutdown(NvmeCtrl *n)
{
    for (unsigned int i = 1; i <= NVME_MAX_NAMESPACES; i++) {
        NvmeNamespace *ns = nvme_ns(n, i);

        if (ns && ns->cancelling) {
            NvmeCancelFlush *f = g_new(NvmeCancelFlush, 1);

            f->n = n;
            QLIST_INSERT_HEAD(&n->cancel.flushes, f, next);
            f->aiocb = blk_aio_flush(ns->blkconf.blk, flush_cb, f);
        }
    }
    return QLIST_EMPTY(&n->cancel.flushes) ? NVME_CSTS_SHST_COMPLETE
                                           : NVME_CSTS_SHST_PROGRESS;
}

void nvme_cancel_shutdown_stop(NvmeCtrl *n)
{
    NvmeCancelFlush *f, *next;

    /* A flush can always be taken back: flush_cb() frees it, now. */
    QLIST_FOREACH_SAFE(f, &n->cancel.flushes, next, next) {
        f->n = NULL;
        blk_aio_cancel_async(f->aiocb);
    }
    assert(QLIST_EMPTY(&n->cancel.flushes));
}
