/*
 * QEMU NVMe: commands that can be taken back while the storage hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A namespace with cancel=on has a BlockBackend whose requests can be abandoned
 * (see block/blk-cancel.h).  What a controller does with that: Abort, resets,
 * the deletion of a submission queue and the shutdown notification do not wait
 * for the storage.
 *
 * Hooks: ctrl.c (Abort, reset, deletion, shutdown, where commands are fetched,
 * where they end, and what those of several steps wait for);
 * ns.c (setup, cleanup).  In cancel-status.c is a step that commands on
 * namespaces with metadata have; hooks: ctrl.c, dif.c.
 * Everything here runs in the main loop's context with the BQL held.
 */

#ifndef HW_NVME_CANCEL_H
#define HW_NVME_CANCEL_H

#include "block/aio.h"
#include "block/blk-cancel.h"
#include "hw/block/cancel-conf.h"
#include "hw/block/cancel-stats.h"
#include "qemu/queue.h"
#include "system/dma-guard.h"
#include "qemu/units.h"

struct NvmeCtrl;
struct NvmeNamespace;
struct NvmeRequest;
struct NvmeSQueue;

typedef struct NvmeCancelFlush NvmeCancelFlush;

/* State of one controller; protected by the BQL. */
typedef struct NvmeCancelCtrl {
    struct NvmeRequest *target;     /* being taken back; NULL once it ended */
    uint16_t status;                /* which it ends with if that succeeds */
    bool canceled;                  /* the storage's answer will not be heard */
    bool deferred;                  /* there may be commands to be fetched */
    unsigned int busy;              /* no command is fetched unless 0 */
    uint64_t round;                 /* of dropping a queue's commands */
    QLIST_HEAD(, NvmeCancelFlush) flushes;  /* of a shutdown in progress */
} NvmeCancelCtrl;

/* State of one command; protected by the BQL. */
typedef struct NvmeCancelReq {
    uint64_t round;                 /* of NvmeCancelCtrl that it was asked in */
    BlockAIOCB **step;              /* what one of several steps waits for */
    bool answered;                  /* its question, by cancel-status.c */
    int answer;
} NvmeCancelReq;

/*
 * nvme_cancel_ns_setup:
 *
 * Switch cancelling on for the BlockBackend of @ns if its properties say so.
 *
 * Returns: true, or false with @errp set.
 */
bool nvme_cancel_ns_setup(struct NvmeNamespace *ns, Error **errp);

/* @ns leaves its BlockBackend, after its commands have been taken back. */
void nvme_cancel_ns_cleanup(struct NvmeNamespace *ns);

/* The same for the namespace that is part of a controller, which is reset. */
void nvme_cancel_exit(struct NvmeCtrl *n);

/*
 * nvme_cancel_check:
 *
 * Whether the properties of controller @n fit each other.
 *
 * Returns: true, or false with @errp set.
 */
bool nvme_cancel_check(struct NvmeCtrl *n, Error **errp);

/*
 * nvme_cancel_enabled:
 *
 * Whether any namespace that commands of @n may have reached has cancelling on.
 * If not, @n works as if this file did not exist.
 */
bool nvme_cancel_enabled(struct NvmeCtrl *n);

/*
 * nvme_cancel_identify:
 *
 * The host is about to be told what @n can do: as many Aborts at a time as can
 * be said, 256, because none of them waits.  A driver that was to have fewer
 * out would give the other commands that have timed out one time-out more.
 */
void nvme_cancel_identify(struct NvmeCtrl *n);

/*
 * nvme_cancel_abort:
 * @req: a command that has not ended yet
 *
 * Take @req back; it ends with Command Abort Requested.  One whose result is
 * known already ends with that, now; one that cannot be taken back goes on.
 *
 * Returns: true if it was aborted.
 */
bool nvme_cancel_abort(struct NvmeRequest *req);

/*
 * nvme_cancel_drop_sq:
 *
 * End all commands of @sq that have a block request, if cancelling is on: with
 * @status, or with their own result if that is known.  Waits for the storage
 * only if some cannot be taken back.
 */
void nvme_cancel_drop_sq(struct NvmeSQueue *sq, uint16_t status);

/*
 * nvme_cancel_reset:
 *
 * The same for the whole controller, a shutdown in progress included.
 *
 * Returns: false if cancelling is off, and nothing was done.
 */
bool nvme_cancel_reset(struct NvmeCtrl *n, uint16_t status);

/*
 * nvme_cancel_is_target:
 *
 * Whether @req is being taken back now, and has not ended yet.
 */
bool nvme_cancel_is_target(struct NvmeRequest *req);

bool nvme_do_was_canceled(struct NvmeRequest *req);

/*
 * nvme_was_canceled:
 * @ret: the result of a block request of @req
 *
 * For the callbacks in which commands end.
 *
 * Returns: true if @req was taken back; its status and the accounting are
 * being seen to.
 */
static inline bool nvme_was_canceled(struct NvmeRequest *req, int ret)
{
    return unlikely(ret == -ECANCELED) && nvme_do_was_canceled(req);
}

/*
 * nvme_cancel_defers:
 *
 * Whether commands must not be fetched now.  Then they will be later.
 */
static inline bool nvme_cancel_defers(NvmeCancelCtrl *d)
{
    if (likely(!d->busy)) {
        return false;
    }
    d->deferred = true;
    return true;
}

/*
 * nvme_cancel_all_zeroed:
 * @step: where the command keeps the block request that it waits for
 *
 * Whether @nlb blocks of @req's namespace, which has cancelling on, all read as
 * zeroes.  The first call asks, with a request in @step, and returns
 * -EINPROGRESS.  Then @cb comes, always later: with 0, and is to call this
 * again for the answer; or with -ECANCELED if the request has been cancelled.
 *
 * Returns: 0 if all do, 1 if not, -EINPROGRESS, or another -errno.
 */
int nvme_cancel_all_zeroed(struct NvmeRequest *req, uint64_t slba,
                           uint32_t nlb, BlockAIOCB **step,
                           BlockCompletionFunc *cb, void *opaque);

/*
 * nvme_cancel_mangle_mdata:
 *
 * nvme_dif_mangle_mdata(), which see; but if @ns has cancelling on the first
 * call returns NVME_NO_COMPLETE, and @cb comes as above.  @mbuf is not touched
 * any more once the request in @step has been cancelled.
 */
uint16_t nvme_cancel_mangle_mdata(struct NvmeRequest *req,
                                  struct NvmeNamespace *ns, uint8_t *mbuf,
                                  size_t mlen, uint64_t slba,
                                  BlockAIOCB **step, BlockCompletionFunc *cb,
                                  void *opaque);

/* @req ends: its completion is going to be queued. */
void nvme_cancel_ended(struct NvmeRequest *req);

/*
 * nvme_cancel_shutdown:
 *
 * The host has notified @n of a shutdown: start to flush the namespaces that
 * have cancelling on.  An earlier notification has been withdrawn.
 *
 * Returns: the state of shutdown processing for CSTS.  Once the flushes of one
 * in progress have finished it is updated there.
 */
uint32_t nvme_cancel_shutdown(struct NvmeCtrl *n);

/* Forget about a shutdown in progress. */
void nvme_cancel_shutdown_stop(struct NvmeCtrl *n);

#endif /* HW_NVME_CANCEL_H */
