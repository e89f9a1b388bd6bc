/*
 * QEMU NVMe: commands that can be taken back while the storage hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A namespace with detach=on has a BlockBackend whose requests can be detached
 * (see block/blk-detach.h).  What a controller does with that: Abort, resets,
 * the deletion of a submission queue and the shutdown notification do not wait
 * for the storage.
 *
 * Hooks: ctrl.c (Abort, reset, deletion, shutdown, the cancel functions of
 * commands of several steps, where commands are fetched and where they end);
 * ns.c (setup, cleanup).  In detach-status.c is a step that commands on
 * namespaces with metadata have; hooks: ctrl.c, dif.c.
 * Everything here runs in the main loop's context with the BQL held.
 */

#ifndef HW_NVME_DETACH_H
#define HW_NVME_DETACH_H

#include "block/aio.h"
#include "block/blk-detach.h"
#include "hw/block/detach-stats.h"
#include "qemu/queue.h"
#include "qemu/units.h"

struct NvmeCtrl;
struct NvmeNamespace;
struct NvmeRequest;
struct NvmeSQueue;

typedef struct NvmeDetachFlush NvmeDetachFlush;

/* State of one controller; protected by the BQL. */
typedef struct NvmeDetachCtrl {
    struct NvmeRequest *target;     /* being taken back; NULL once it ended */
    uint16_t status;                /* which it ends with if that succeeds */
    bool canceled;                  /* the storage's answer will not be heard */
    bool deferred;                  /* there may be commands to be fetched */
    unsigned int busy;              /* no command is fetched unless 0 */
    uint64_t round;                 /* of dropping a queue's commands */
    QLIST_HEAD(, NvmeDetachFlush) flushes;  /* of a shutdown in progress */
} NvmeDetachCtrl;

/* State of one command; protected by the BQL. */
typedef struct NvmeDetachReq {
    uint64_t round;                 /* of NvmeDetachCtrl that it was asked in */
    bool answered;                  /* its question, by detach-status.c */
    int answer;
} NvmeDetachReq;

/*
 * nvme_detach_ns_setup:
 *
 * Switch detaching on for the BlockBackend of @ns if its properties say so.
 *
 * Returns: true, or false with @errp set.
 */
bool nvme_detach_ns_setup(struct NvmeNamespace *ns, Error **errp);

/* @ns leaves its BlockBackend, after its commands have been taken back. */
void nvme_detach_ns_cleanup(struct NvmeNamespace *ns);

/*
 * nvme_detach_check:
 *
 * Whether the properties of controller @n fit each other.
 *
 * Returns: true, or false with @errp set.
 */
bool nvme_detach_check(struct NvmeCtrl *n, Error **errp);

/*
 * nvme_detach_enabled:
 *
 * Whether any namespace that commands of @n may have reached has detaching on.
 * If not, @n works as if this file did not exist.
 */
bool nvme_detach_enabled(struct NvmeCtrl *n);

/*
 * nvme_detach_abort:
 * @req: a command that has not ended yet
 *
 * Take @req back; it ends with Command Abort Requested.  One whose result is
 * known already ends with that, now; one that cannot be taken back goes on.
 *
 * Returns: true if it was aborted.
 */
bool nvme_detach_abort(struct NvmeRequest *req);

/*
 * nvme_detach_drop_sq:
 *
 * End all commands of @sq that have a block request, if detaching is on: with
 * @status, or with their own result if that is known.  Waits for the storage
 * only if some cannot be taken back.
 */
void nvme_detach_drop_sq(struct NvmeSQueue *sq, uint16_t status);

/*
 * nvme_detach_reset:
 *
 * The same for the whole controller, a shutdown in progress included.
 *
 * Returns: false if detaching is off, and nothing was done.
 */
bool nvme_detach_reset(struct NvmeCtrl *n, uint16_t status);

/*
 * nvme_detach_cancel_step:
 * @step: the block request which the command @req waits for now, or NULL
 *
 * For the cancel function of a command of several steps: cancel @step alone.
 * The command ends if that step does, and may be gone on return.
 *
 * Returns: false if @req is not being taken back; nothing was done.
 */
bool nvme_detach_cancel_step(struct NvmeRequest *req, BlockAIOCB *step);

/*
 * nvme_detach_is_target:
 *
 * Whether @req is being taken back now, and has not ended yet.
 */
bool nvme_detach_is_target(struct NvmeRequest *req);

bool nvme_detach_do_canceled(struct NvmeRequest *req);

/*
 * nvme_detach_canceled:
 * @ret: the result of a block request of @req
 *
 * For the callbacks in which commands end.
 *
 * Returns: true if @req was taken back; its status and the accounting are
 * being seen to.
 */
static inline bool nvme_detach_canceled(struct NvmeRequest *req, int ret)
{
    return unlikely(ret == -ECANCELED) && nvme_detach_do_canceled(req);
}

/*
 * nvme_detach_defers:
 *
 * Whether commands must not be fetched now.  Then they will be later.
 */
static inline bool nvme_detach_defers(NvmeDetachCtrl *d)
{
    if (likely(!d->busy)) {
        return false;
    }
    d->deferred = true;
    return true;
}

/*
 * nvme_detach_all_zeroed:
 * @step: where the command keeps the block request that it waits for
 *
 * Whether @nlb blocks of @req's namespace, which has detaching on, all read as
 * zeroes.  The first call asks, with a request in @step, and returns
 * -EINPROGRESS.  Then @cb comes, always later: with 0, and is to call this
 * again for the answer; or with -ECANCELED if the request has been cancelled.
 *
 * Returns: 0 if all do, 1 if not, -EINPROGRESS, or another -errno.
 */
int nvme_detach_all_zeroed(struct NvmeRequest *req, uint64_t slba,
                           uint32_t nlb, BlockAIOCB **step,
                           BlockCompletionFunc *cb, void *opaque);

/*
 * nvme_detach_mangle_mdata:
 *
 * nvme_dif_mangle_mdata(), which see; but if @ns has detaching on the first
 * call returns NVME_NO_COMPLETE, and @cb comes as above.  @mbuf is not touched
 * any more once the request in @step has been cancelled.
 */
uint16_t nvme_detach_mangle_mdata(struct NvmeRequest *req,
                                  struct NvmeNamespace *ns, uint8_t *mbuf,
                                  size_t mlen, uint64_t slba,
                                  BlockAIOCB **step, BlockCompletionFunc *cb,
                                  void *opaque);

/* @req ends: its completion is going to be queued. */
void nvme_detach_ended(struct NvmeRequest *req);

/*
 * nvme_detach_shutdown:
 *
 * The host has notified @n of a shutdown: start to flush the namespaces that
 * have detaching on.  An earlier notification has been withdrawn.
 *
 * Returns: the state of shutdown processing for CSTS.  Once the flushes of one
 * in progress have finished it is updated there.
 */
uint32_t nvme_detach_shutdown(struct NvmeCtrl *n);

/* Forget about a shutdown in progress. */
void nvme_detach_shutdown_cancel(struct NvmeCtrl *n);

#endif /* HW_NVME_DETACH_H */
