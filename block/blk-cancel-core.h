/*
 * Cancellable requests: the parts of the engine share this
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * blk-cancel.c has a request's life, and cancels it; blk-cancel-wait.c the
 * places where it waits before it is issued, but for the fence, which is in
 * blk-cancel-fence.c; blk-cancel-buffer.c the buffers that data goes through;
 * blk-cancel-swap.c is for data that needs none;
 * blk-cancel-zoned.c what only zoned storage has; blk-cancel-stats.c counts;
 * blk-cancel-switch.c creates and frees all this.
 */

#ifndef BLOCK_BLK_CANCEL_CORE_H
#define BLOCK_BLK_CANCEL_CORE_H

#include "block/blk-cancel-hold.h"
#include "block/blk-cancel_int.h"
#include "block/throttle-groups.h"
#include "blk-cancel-pin.h"
#include "qemu/interval-tree.h"
#include "qemu/queue.h"
#include "qemu/thread.h"

typedef enum BlkCancelState {
    BLK_CANCEL_NEW,             /* its coroutine has not been entered yet */
    BLK_CANCEL_WAITING,
    BLK_CANCEL_ISSUED,
    BLK_CANCEL_RETURNED,        /* with a result the caller does not know */
    BLK_CANCEL_DONE,            /* the callback has run, or runs now */
} BlkCancelState;

/* Where a coroutine waits, for traces and figures */
typedef enum BlkCancelWait {
    WAIT_DRAINED,               /* for a drained section's end, or held */
    WAIT_BUFFER,                /* until a buffer fits the budget */
    WAIT_FENCE,                 /* behind an abandoned request */
    WAIT_DAMPER,                /* in a region where requests hang */
    WAIT__MAX,
} BlkCancelWait;

typedef struct BlkCancelReq BlkCancelReq;
typedef struct BlkCancelWaiter BlkCancelWaiter;
typedef QTAILQ_HEAD(, BlkCancelWaiter) BlkCancelWaiterList;

struct BlkCancelWaiter {
    /* Written by the coroutine before it waits */
    Coroutine *co;              /* NULL: it has not been created yet */
    BlkCancelReq *req;          /* NULL: not one of ours, at the fence only */
    int64_t offset;
    int64_t bytes;
    uint64_t seq;               /* WAIT_FENCE: the newest that is in its way */

    /* Protected by BlkCancel.lock */
    BlkCancelWaiterList *list;  /* NULL: does not wait, or has been woken */
    BlkCancelWait where;
    bool granted;               /* WAIT_BUFFER: it has been charged */
    QTAILQ_ENTRY(BlkCancelWaiter) next;
};

/* Idle buffers: 4 KiB, 8 KiB ... 1 MiB, and the largest that Linux asks for */
#define BLK_CANCEL_POOL_CLASSES 10

/*
 * What requests of one BlockBackend in one AioContext share.  Nothing is
 * written but by that context's thread, and on cache lines of its own.
 */
typedef struct QEMU_ALIGNED(64) BlkCancelCtx {
    /* Set once */
    AioContext *ctx;
    BlkCancel *d;
    QSLIST_ENTRY(BlkCancelCtx) next;

    /* Owned by the thread of @ctx */
    QEMU_ALIGNED(64) QTAILQ_HEAD(, BlkCancelReq) issued; /* in that order */
    QSLIST_HEAD(, BlkCancelReq) unused; /* memory for requests */
    unsigned int nr_unused;
    void *idle[BLK_CANCEL_POOL_CLASSES]; /* each names the next in its head */
    uint64_t idle_bytes;        /* part of @spare */

    /* The same, for other threads to look at: atomic */
    uint64_t spare;             /* of BlkCancel.charged, for what comes next */
    unsigned int nr_issued;     /* entries of @issued */
    unsigned int nr_slow;       /* of these: BlkCancelLoad.slow */
    uint64_t ended;             /* left it, ever */
    int64_t oldest_ns;          /* when its first was issued, or 0 */
} BlkCancelCtx;

/* For blk-cancel-stats.c */
typedef struct BlkCancelFigures {
    QEMUBH *report_bh;          /* set once; scheduled by any thread */
    char *qom_path;             /* set once; outlives the device */
    char *qdev_id;              /* the same, or NULL */
    bool reported_hung;         /* owned by the main loop */
    int64_t warned_ns;          /* the same: of a failure, last */

    /* Protected by BlkCancel.lock; since the figures were reset */
    uint64_t cancels[BLK_CANCEL__MAX];
    uint64_t seq_at_reset;      /* BlkCancel.seq then */
    int64_t max_ns;             /* highest age of a finished request */
    uint64_t failed;            /* abandoned, and ended with an error */

    /* Protected by BlkCancel.lock; those of @failed not yet reported */
    unsigned int unreported;
    struct {
        BlkCancelOp op;
        int64_t offset;
        int64_t bytes;
        int ret;
    } failure;                  /* the last of them */

    /* Protected by BlkCancel.lock */
    uint64_t bytes;             /* of all that are abandoned */

    /* Protected by BlkCancel.lock; since none was abandoned last */
    uint64_t seq_before_hang;   /* BlkCancel.seq then */
    int64_t hang_max_ns;        /* highest age of a finished request */
} BlkCancelFigures;

#define BLK_CANCEL_CTX_BUCKETS 16

struct BlkCancel {
    /* Set once */
    BlockBackend *blk;
    ThrottleGroupMember *tgm;
    BlkCancelOptions opts;
    unsigned int free_starts;   /* with so many abandoned, or more, ask first */

    /* Entries are added under the lock and stay; read under RCU rules */
    QSLIST_HEAD(, BlkCancelCtx) ctxs[BLK_CANCEL_CTX_BUCKETS];

    /* Written under the lock, seldom; read without it: atomic */
    uint64_t budget;            /* @opts.budget, or the machine's share */
    unsigned int nr_ctxs;       /* entries of @ctxs */
    unsigned int nr_abandoned;  /* entries of @abandoned */
    unsigned int nr_buffer_waiters;

    QEMU_ALIGNED(64) QemuMutex lock;

    /* Protected by the lock */
    QTAILQ_HEAD(, BlkCancelReq) abandoned;
    IntervalTreeRoot fences;    /* the ranges of those that change the disk */
    GHashTable *regions;        /* those with abandoned requests */
    uint64_t abandoned_cost;    /* of their buffers */
    uint64_t seq;               /* of the request abandoned last */
    BlkCancelWaiterList parked;
    BlkCancelWaiterList for_buffer;
    BlkCancelWaiterList for_end; /* of any that is abandoned */
    unsigned int waiting[WAIT__MAX];
    unsigned int nr_started;    /* with a coroutine; 0: they do not count */
    uint64_t charged;           /* bytes of buffer, idle ones included */

    /* BQL */
    QLIST_ENTRY(BlkCancel) all;

    /* Written under the BQL, read by every thread that submits: atomic */
    bool held;                  /* see blk_cancel_hold() */

    BlkCancelFigures stats;
};

/*
 * A request.  To its caller it is an AIOCB until the callback has run; it lives
 * until the storage has answered.
 */
struct BlkCancelReq {
    BlockAIOCB common;

    /* Set once, at submission */
    BlkCancelCtx *ctx;
    BlkCancelOp op;
    BdrvRequestFlags flags;
    int64_t offset;
    int64_t bytes;
    bool bounced;               /* data goes through @buf */
    int64_t start_ns;

    /* The same, of zone operations; the caller's, not used after a cancel */
    struct {
        BlockZoneOp op;
        unsigned int *nr_zones;
        BlockZoneDescriptor *zones;
        int64_t *append_offset;
    } zone;

    /* Owned by the thread of @ctx->ctx */
    Coroutine *co;
    BlkCancelState state;
    bool has_returned;          /* blk_aio_*() is over: the callback may run */
    bool canceled;              /* the caller has it back as such */
    bool throttled;             /* may be in the throttle queue */
    bool waited;                /* may be issued long after @start_ns */
    bool refused;               /* a cancel has left it with the storage */
    int ret;
    QEMUIOVector *qiov;         /* the caller's; not used after a cancel */
    void *buf;
    QEMUIOVector bounce;        /* @buf, or what is lent, or empty */
    bool lent;                  /* it runs on the caller's memory, see @pin */
    BlkPin pin;                 /* valid while it is lent */
    int64_t issued_ns;
    union {
        QTAILQ_ENTRY(BlkCancelReq) issued; /* while ISSUED */
        QSLIST_ENTRY(BlkCancelReq) unused; /* when it is over */
    };

    BlkCancelWaiter waiter;

    /* Protected by BlkCancel.lock, meaningful while abandoned */
    bool abandoned;             /* read by the thread of @ctx->ctx as well */
    uint64_t seq;
    IntervalTreeNode range;
    BlkCancelWaiterList behind; /* WAIT_FENCE */
    QTAILQ_ENTRY(BlkCancelReq) next;
};

/*
 * The two halves of blk_cancel_aio(): what is between them may change what the
 * first has set.
 */
BlkCancelReq *blk_cancel_new_req(BlkCancel *d, BlkCancelOp op, int64_t offset,
                                 int64_t bytes, QEMUIOVector *qiov,
                                 BdrvRequestFlags flags,
                                 BlockCompletionFunc *cb, void *opaque);
BlockAIOCB *blk_cancel_submit(BlkCancelReq *r);

/* Create its coroutine and enter it.  Context: the thread of @r->ctx->ctx. */
void blk_cancel_start(BlkCancelReq *r);

/* Whether the operation is one of blk-cancel-zoned.c. */
static inline bool blk_cancel_is_zone_op(const BlkCancelReq *r)
{
    return r->op >= BLK_CANCEL_ZONE_REPORT;
}

int coroutine_fn GRAPH_RDLOCK blk_cancel_co_issue_zone_op(BlkCancelReq *r);

static inline bool blk_cancel_changes_disk(const BlkCancelReq *r)
{
    return r->op == BLK_CANCEL_WRITE || r->op == BLK_CANCEL_DISCARD;
}

/*
 * blk-cancel-wait.c
 */

/*
 * blk_cancel_co_admit:
 *
 * Wait for everything that a request must wait for before it is issued: the
 * end of a drained section, the fence, throttling, and last for a buffer, into
 * which a write's data is copied.  On return @r->canceled may be true.
 */
void coroutine_fn blk_cancel_co_admit(BlkCancelReq *r);

/*
 * blk_cancel_unwait:
 *
 * Take a WAITING request off whatever it waits for.  Returns true if it was
 * there; then nobody else wakes its coroutine.  Otherwise it has been woken by
 * another thread, or by itself, and comes.
 */
bool blk_cancel_unwait(BlkCancelReq *r);

/*
 * Called with d->lock held: put @w, which is to be woken by the others' end, on
 * @list.
 */
void blk_cancel_wait_locked(BlkCancel *d, BlkCancelWaiter *w,
                            BlkCancelWaiterList *list, BlkCancelWait where);

/*
 * blk_cancel_co_wait_unlock:
 *
 * Called with d->lock held, which is released while waiting and not taken
 * again.  @w is off @list when this returns: what it waited for has been given
 * to it, or it was cancelled.
 */
void coroutine_fn blk_cancel_co_wait_unlock(BlkCancel *d, BlkCancelWaiter *w,
                                            BlkCancelWaiterList *list,
                                            BlkCancelWait where);

/* Whether requests of @d that hold nothing yet must not go on. */
bool blk_cancel_must_park(BlkCancel *d);

/* Called with d->lock held: park @w's request, which is not in flight then. */
void blk_cancel_park_locked(BlkCancel *d, BlkCancelWaiter *w);

/*
 * Called with d->lock held: @w does not wait any more.  The caller wakes what
 * is on @woken once it has released the lock; NULL: it does so itself.
 */
void blk_cancel_unwait_locked(BlkCancel *d, BlkCancelWaiter *w,
                              BlkCancelWaiterList *woken);

/* Each waiter may be gone once it has been woken; or wake them later. */
void blk_cancel_wake(BlkCancelWaiterList *woken);
void blk_cancel_wake_later(BlkCancelWaiterList *woken);

/*
 * blk-cancel-fence.c
 */

/* Wait behind what is abandoned, at the fence and then in the damper. */
void coroutine_fn blk_cancel_co_pass_fence(BlkCancel *d, BlkCancelWaiter *w);

/*
 * What blk_cancel_waits_to_start() leaves of a limited address space, and what
 * abandoning a request leaves, which lets the guest have another one
 */
#define BLK_CANCEL_START_ROOM   (96 * MiB)
#define BLK_CANCEL_CANCEL_ROOM  (48 * MiB)

/* How much more may be abandoned, and started.  Context: BQL, with a new @d. */
void blk_cancel_find_limits(BlkCancel *d);

/*
 * blk_cancel_waits_to_start:
 *
 * While so much is abandoned that the host's memory is at stake, or while it
 * has no address space for many more stacks, a request waits before it has a
 * coroutine.
 *
 * Returns: true if blk_cancel_start() is called later, when others have ended.
 */
bool blk_cancel_waits_to_start(BlkCancelReq *r);

/* One that did not wait, or does not any more, has ended. */
void blk_cancel_end_started(BlkCancel *d);

/*
 * Called with d->lock held: those that wait to start, and may, are put on
 * @woken; or they are parked.
 */
void blk_cancel_start_waiters_locked(BlkCancel *d, BlkCancelWaiterList *woken);

/*
 * blk_cancel_is_full:
 *
 * Context: any thread.
 * Returns: whether so much is abandoned, of all BlockBackends, that the host
 * might have no room for the coroutines of more.
 */
bool blk_cancel_is_full(void);

/* @r is abandoned from now on: requests that come later wait behind it. */
void blk_cancel_enter_abandoned(BlkCancelReq *r);

/* The abandoned @r has ended: wake those that it alone held up. */
void blk_cancel_leave_abandoned(BlkCancelReq *r);

/*
 * blk-cancel-buffer.c; the thread of @r->ctx->ctx
 */

/* Bytes that a buffer for @bytes bytes of data takes. */
uint64_t blk_cancel_buffer_size(uint64_t bytes);

/*
 * Get @r's buffer, waiting until it fits the budget, and copy a write's data
 * into it.  Where there is no memory @r does without, and cannot be abandoned.
 */
void coroutine_fn blk_cancel_co_get_buffer(BlkCancelReq *r);

/* Copy a read's data out of it. */
void coroutine_fn blk_cancel_co_copy_out(BlkCancelReq *r);

/* Give the buffer back; others may be waiting for it. */
void blk_cancel_put_buffer(BlkCancelReq *r);

/* The budgets of all engines, when one comes or goes.  BQL. */
void blk_cancel_share_budget(void);

/* Free the idle ones.  Nothing is in flight. */
void blk_cancel_free_idle(BlkCancelCtx *ctx);

/* Called with d->lock held: bytes of buffer that requests have. */
uint64_t blk_cancel_budget_used_locked(BlkCancel *d);

/* The same for what does without it, but has been charged. */
void blk_cancel_uncharge(BlkCancelReq *r);

/* Get a buffer for what has been charged, and copy a write's data into it. */
void coroutine_fn blk_cancel_co_use_buffer(BlkCancelReq *r);

/*
 * blk-cancel-swap.c; the thread of @r->ctx->ctx
 */

/* Returns: whether @r can do without a buffer, and is lent from now on. */
bool coroutine_fn blk_cancel_co_lend(BlkCancelReq *r);

/* It is not any more; it stays charged. */
void blk_cancel_end_lent(BlkCancelReq *r);

/*
 * blk_cancel_lent_returned:
 *
 * What was lent has returned.  If it was abandoned, @r->ret is its result now.
 *
 * Returns: whether it must be done again, through a buffer.
 */
bool blk_cancel_lent_returned(BlkCancelReq *r);

/*
 * blk_cancel_swap:
 *
 * Give the caller other pages with the same contents in place of those that
 * are lent.
 *
 * Returns: false if @r must stay with the storage.
 */
bool blk_cancel_swap(BlkCancelReq *r);

/*
 * blk-cancel-hold.c
 */

/* All BlockBackends with cancelling on, and new ones, are known by this. */
void blk_cancel_register(BlkCancel *d);
void blk_cancel_unregister(BlkCancel *d);
BlkCancel *blk_cancel_next(BlkCancel *d);

/* What @d has with the storage at @now, of get_clock().  Context: BQL held. */
void blk_cancel_look(BlkCancel *d, int64_t now, BlkCancelLoad *load);

/*
 * blk-cancel-stats.c
 */

/* When the engine comes and goes.  Context: main loop, BQL held. */
void blk_cancel_stats_init(BlkCancel *d);
void blk_cancel_stats_cleanup(BlkCancel *d);

/* Called with d->lock held: before @r is in, or out of, the list and counts. */
void blk_cancel_stats_enter_locked(BlkCancelReq *r);
void blk_cancel_stats_leave_locked(BlkCancelReq *r);

/* Called with d->lock held: the figures kept here. */
void blk_cancel_stats_query_locked(BlkCancel *d, BlkCancelInfo *info);

#endif /* BLOCK_BLK_CANCEL_CORE_H */
