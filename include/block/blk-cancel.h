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

#include "qemu/units.h"
#include "block/block-common.h"
#include "system/block-backend-common.h"

#define BLK_CANCEL_DEFAULT_BUDGET       (128 * MiB)
#define BLK_CANCEL_DEFAULT_DAMPER       4
#define BLK_CANCEL_DEFAULT_REGION       (4 * MiB)
#define BLK_CANCEL_DEFAULT_MAX          8192

/* What all disks of a machine may have together, and each of them for sure */
#define BLK_CANCEL_MACHINE_BUDGET       (128 * MiB)
#define BLK_CANCEL_MIN_SHARE            (4 * MiB)

/*
 * For requests that run on the caller's own memory and are taken back by
 * swapping its pages: what the owner of that memory knows of it.  Linux only;
 * page_swap_init() must have succeeded.  Context of all: any thread.
 */
typedef struct BlkCancelSwap {
    /* Whether memory may be swapped as a rule; asked for each request. */
    bool (*is_possible)(void);

    /* Whether this may: nobody else has it, in the kernel or outside. */
    bool (*may_swap)(const struct iovec *iov, int niov);

    /* The storage may have written to it; it is the caller's again. */
    void (*written)(const struct iovec *iov, int niov);
} BlkCancelSwap;

/* The limits of one BlockBackend; they hold across device resets. */
typedef struct BlkCancelOptions {
    /*
     * Bytes of buffer for requests in flight and abandoned.  A request that
     * does not fit waits; one larger than all of it runs on the caller's memory
     * and cannot be abandoned.  0: no buffers.
     */
    uint64_t budget;

    /*
     * While so many requests of one region of the disk are abandoned, it takes
     * no more.
     */
    unsigned int damper;

    /* Size of a region.  Ceph's objects and thin pools' chunks are as large. */
    uint64_t region;

    /*
     * While so many requests are abandoned in all, new ones are not begun: each
     * has a coroutine, which the budget does not count.  So there are fewer
     * coroutines than this and what the device has queues for.  When an eighth
     * of them are, a region with one takes no more.  0: BLK_CANCEL_DEFAULT_MAX.
     */
    unsigned int max_abandoned;

    /* How requests run without a copy where that is possible; NULL: none. */
    const BlkCancelSwap *swap;
} BlkCancelOptions;

/* For a device model: its own budget, and limits that suit all. */
#define BLK_CANCEL_OPTIONS(_budget)                 \
    ((BlkCancelOptions) {                           \
        .budget = (_budget),                        \
        .damper = BLK_CANCEL_DEFAULT_DAMPER,        \
        .region = BLK_CANCEL_DEFAULT_REGION,        \
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
    uint64_t failed;                /* of them, ended in an error, ever */
    uint64_t budget;                /* BlkCancelOptions.budget, or its share */
    uint64_t budget_used;           /* bytes of buffer in use now */
    unsigned int waiting_drained;   /* parked by a drained section */
    unsigned int waiting_budget;    /* for a buffer */
    unsigned int waiting_fence;     /* behind an abandoned request */
    int64_t oldest_ns;              /* age of the oldest abandoned one, or 0 */
    int64_t max_ns;                 /* highest age of an abandoned one, ever */

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
 * blk_aio_waits:
 * @acb: a request whose callback has not run
 *
 * Whether nothing of it has been begun, so that a cancel leaves nothing behind:
 * it waits, for a held disk to be let go or for something else.  False for
 * requests that cannot be cancelled, and for zone operations.
 *
 * Context: the AioContext of the request.
 */
bool blk_aio_waits(BlockAIOCB *acb);

/*
 * blk_aio_time_with_storage:
 * @acb: a request whose callback has not run
 *
 * Context: the AioContext of the request.
 * Returns: for how many ns the storage has had it, or -1 if it is not with the
 * storage: it waits, or has its result.  Time that it has waited does not
 * count.  -1 as well if cancelling is off.
 */
int64_t blk_aio_time_with_storage(BlockAIOCB *acb);

/*
 * blk_cancel_refused_ended:
 *
 * For a device model that resets itself, and must wait for requests that
 * blk_aio_cancel_async() could not take back - and for these alone, because
 * what is abandoned may take for ever.  It reads this, cancels all it has, and
 * if anything is left it waits until this has changed, and begins again: a
 * request of several steps is then asked at each.
 *
 * Context: any thread.
 * Returns: a figure that changes each time such a request, of whatever
 * BlockBackend, has ended and its callback has returned; aio_wait_kick() has
 * been called since.
 */
unsigned int blk_cancel_refused_ended(void);

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

/*
 * blk_cancel_set_machine_budget:
 * @bytes: of buffer for all BlockBackends together; each gets an equal share,
 *         but BLK_CANCEL_MIN_SHARE at least and its own budget at most
 *
 * Context: BQL held.
 */
void blk_cancel_set_machine_budget(uint64_t bytes);
uint64_t blk_cancel_machine_budget(void);

#endif /* BLOCK_BLK_CANCEL_H */
