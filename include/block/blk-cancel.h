/*
 * Requests of a BlockBackend that can be taken back while the storage hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A BlockBackend with cancelling on runs its blk_aio_*() requests in two
 * halves.  The front is what the caller knows: the BlockAIOCB and its callback.
 * The back is what the block layer knows: a coroutine, a bounce buffer and a
 * range.  blk_aio_cancel_async() gives the front back to the caller at once;
 * the back, if it has been issued already, runs on "abandoned" and touches
 * nothing of the caller's any more.
 *
 * Hooks: block-backend.c (submission, fence, drained sections, teardown) and
 * throttle-groups.c (taking a request out of the throttle queue).
 */

#ifndef BLOCK_BLK_CANCEL_H
#define BLOCK_BLK_CANCEL_H

#include "block/block-common.h"
#include "system/block-backend-common.h"

#define BLK_CANCEL_DEFAULT_BUDGET       (256 * MiB)
#define BLK_CANCEL_DEFAULT_MAX_REQUESTS 256
#define BLK_CANCEL_DEFAULT_CTX_QUOTA    48

/* The limits of one BlockBackend; they hold across device resets. */
typedef struct BlkCancelOptions {
    /*
     * Bytes of bounce buffer for requests in flight and abandoned.  A request
     * that does not fit waits; one larger than all of it runs without a
     * bounce buffer and cannot be abandoned.  0: no bounce buffers.
     */
    uint64_t budget;

    /*
     * While any request is abandoned, a new one is issued only if fewer than
     * this many (in flight and abandoned) are with the storage.
     */
    unsigned int max_requests;

    /* The same, counted in the AioContext of the new request alone. */
    unsigned int ctx_quota;
} BlkCancelOptions;

/* For a device model: its own budget, and limits that suit all. */
#define BLK_CANCEL_OPTIONS(_budget)                         \
    ((BlkCancelOptions) {                                   \
        .budget         = (_budget),                        \
        .max_requests   = BLK_CANCEL_DEFAULT_MAX_REQUESTS,  \
        .ctx_quota      = BLK_CANCEL_DEFAULT_CTX_QUOTA,     \
    })

/* What became of a guest's cancel: CANCEL, or an abort of another device. */
typedef enum BlkCancelOutcome {
    BLK_CANCEL_CANCELED,            /* its target is given back as cancelled */
    BLK_CANCEL_COMPLETED,           /* its target had its own result already */
    BLK_CANCEL_NOT_FOUND,           /* there is no such target */
    BLK_CANCEL_REFUSED,             /* its target is with the storage still */
    BLK_CANCEL_INVALID,             /* it was malformed */
    BLK_CANCEL__MAX,
} BlkCancelOutcome;

/*
 * A snapshot of one BlockBackend's abandoned and waiting requests.  "Ever" is
 * since blk_set_cancel() or blk_cancel_reset_stats(); ages are from submission.
 */
typedef struct BlkCancelInfo {
    unsigned int abandoned;          /* abandoned and unfinished now */
    uint64_t abandoned_bytes;        /* their ranges */
    uint64_t abandoned_ever;
    uint64_t cancels[BLK_CANCEL__MAX]; /* ever, see BlkCancelOutcome */
    uint64_t budget;                /* BlkCancelOptions.budget */
    uint64_t budget_used;           /* bytes of bounce buffer charged now */
    unsigned int waiting_drained;   /* parked by a drained section */
    unsigned int waiting_budget;    /* for bounce buffer or quota */
    unsigned int waiting_fence;     /* behind a abandoned request */
    int64_t oldest_ns;              /* age of the oldest abandoned one, or 0 */
    int64_t max_ns;                 /* highest age of a abandoned one, ever */

    /* The same since the first was abandoned while none was, for the event */
    uint64_t hang_requests;
    int64_t hang_max_ns;
} BlkCancelInfo;

/*
 * blk_set_cancel:
 * @opts: the limits, or NULL to switch cancelling off
 *
 * Switch cancelling on or off for @blk.  Requests already submitted must have
 * finished, abandoned ones included.  Cancelling is switched off when
 * the device model leaves @blk.
 *
 * Context: main loop, BQL held.
 * Returns: true, or false with @errp set if record/replay is in use.
 */
bool blk_set_cancel(BlockBackend *blk, const BlkCancelOptions *opts,
                    Error **errp);

/*
 * blk_aio_was_canceled:
 * @acb: a request of any BlockBackend, from inside its own callback
 *
 * Whether the callback runs because blk_aio_cancel_async() took the request
 * back, and not because it has a result.  The return value of the callback is
 * then -ECANCELED; but a block driver may return that by itself.
 *
 * Context: the AioContext of the request.
 */
bool blk_aio_was_canceled(BlockAIOCB *acb);

/*
 * blk_cancel_query:
 *
 * Context: any thread; @blk must stay alive.  All zero if cancelling is off.
 */
void blk_cancel_query(BlockBackend *blk, BlkCancelInfo *info);

/*
 * blk_cancel_account:
 *
 * Count a cancel of the guest.  To be called by the device model before the
 * guest can know its outcome.
 *
 * Context: any thread; @blk must stay alive.  No-op if cancelling is off.
 */
void blk_cancel_account(BlockBackend *blk, BlkCancelOutcome outcome);

/*
 * blk_cancel_reset_stats:
 *
 * Start to count from zero what BlkCancelInfo has as "ever".
 *
 * Context: main loop, BQL held.
 * Returns: false if cancelling is off.
 */
bool blk_cancel_reset_stats(BlockBackend *blk);

#endif /* BLOCK_BLK_CANCEL_H */
