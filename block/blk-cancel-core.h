/*
 * Cancellable requests: the parts of the engine share this
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * blk-cancel.c has the two halves of a request, and cancels it; in
 * blk-cancel-wait.c are the places where a request waits before it is issued;
 * blk-cancel-zoned.c has the operations that only zoned storage has;
 * blk-cancel-quiesce.c sees to all BlockBackends at once; blk-cancel-stats.c
 * counts what happened.
 */

#ifndef BLOCK_BLK_CANCEL_CORE_H
#define BLOCK_BLK_CANCEL_CORE_H

#include "block/blk-cancel-quiesce.h"
#include "block/blk-cancel_int.h"
#include "block/throttle-groups.h"
#include "qemu/queue.h"
#include "qemu/thread.h"
#include "blk-cancel-pool.h"

typedef enum BlkCancelState {
    BLK_CANCEL_NEW,
    BLK_CANCEL_WAITING,
    BLK_CANCEL_ISSUED,
} BlkCancelState;

/* Where a coroutine waits; each has a list in BlkCancel. */
typedef enum BlkCancelWait {
    WAIT_DRAINED,               /* for a drained section's end, or the gate */
    WAIT_BUFFER,                /* until a bounce buffer fits the budget */
    WAIT_FENCE,                 /* behind abandoned requests */
    WAIT_SLOT,                  /* until fewer requests are with the storage */
    WAIT__MAX,
    WAIT_NOT = WAIT__MAX,       /* not on a list */
} BlkCancelWait;

typedef struct BlkCancelReq BlkCancelReq;

typedef struct BlkCancelWaiter {
    /* Set once */
    Coroutine *co;
    BlkCancelReq *req;          /* NULL: not one of ours, at the fence only */

    /* Protected by BlkCancel.lock */
    BlkCancelWait where;
    unsigned int blockers;      /* WAIT_FENCE: abandoned requests in its way */
    QTAILQ_ENTRY(BlkCancelWaiter) next;

    /* Written by the coroutine before it waits */
    int64_t offset;
    int64_t bytes;
    uint64_t seq;               /* WAIT_FENCE: the newest that is in its way */
} BlkCancelWaiter;

typedef QTAILQ_HEAD(, BlkCancelWaiter) BlkCancelWaiterList;

/* What requests of one BlockBackend in one AioContext share. */
typedef struct BlkCancelCtx {
    AioContext *ctx;            /* set once */
    unsigned int issued;        /* slots taken; atomic */
    BlkCancelPool pool;         /* owned by the thread of @ctx */
    QSLIST_ENTRY(BlkCancelCtx) next;

    /* Added and removed by the thread of @ctx, under the lock */
    QemuSpin lock;
    QTAILQ_HEAD(, BlkCancelReq) issued_reqs;
} BlkCancelCtx;

/* For blk-cancel-stats.c */
typedef struct BlkCancelFigures {
    QEMUBH *report_bh;          /* set once; scheduled by any thread */
    char *qom_path;             /* set once; outlives the device */
    char *qdev_id;              /* the same, or NULL */
    bool reported_hung;         /* owned by the main loop */

    /* Protected by BlkCancel.lock; since the figures were reset */
    uint64_t cancels[BLK_CANCEL__MAX];
    uint64_t seq_at_reset;      /* BlkCancel.seq then */
    int64_t max_ns;             /* highest age of a finished request */

    /* Protected by BlkCancel.lock */
    uint64_t bytes;             /* of all that are abandoned */

    /* Protected by BlkCancel.lock; since none was abandoned last */
    uint64_t seq_before_hang;   /* BlkCancel.seq then */
    int64_t hang_max_ns;        /* highest age of a finished request */
} BlkCancelFigures;

struct BlkCancel {
    /* Set once */
    BlockBackend *blk;
    ThrottleGroupMember *tgm;
    BlkCancelOptions opts;

    /* Atomic */
    uint64_t budget_used;       /* bytes of bounce buffer */
    unsigned int issued;        /* slots taken */
    unsigned int nr_waiting;    /* in WAIT_BUFFER and WAIT_SLOT */

    /* Written under the lock, read without it as a hint: atomic */
    unsigned int nr_abandoned;   /* entries of @abandoned */
    unsigned int nr_fences;     /* those that change the disk */

    /* Entries are added under the lock and stay; read under RCU rules */
    QSLIST_HEAD(, BlkCancelCtx) ctxs;

    QemuMutex lock;

    /* Protected by the lock */
    QTAILQ_HEAD(, BlkCancelReq) abandoned;
    BlkCancelWaiterList waiting[WAIT__MAX];
    uint64_t seq;               /* of the request abandoned last */

    /* BQL */
    QLIST_ENTRY(BlkCancel) all;

    BlkCancelFigures stats;
};

/* The front: the caller's half. */
typedef struct BlkCancelAIOCB {
    BlockAIOCB common;

    /* Set once */
    BlockBackend *blk;
    AioContext *ctx;

    /* Owned by the thread of @ctx */
    BlkCancelReq *req;          /* NULL once the back has returned */
    int ret;
    bool has_returned;          /* blk_aio_*() is over: the callback may run */
    bool canceled;
    bool done;                  /* the callback has run, or runs now */
} BlkCancelAIOCB;

/* The back: the block layer's half. */
struct BlkCancelReq {
    /* Set once, at submission */
    BlkCancel *d;
    BlkCancelCtx *dctx;
    BlkCancelOp op;
    BdrvRequestFlags flags;
    int64_t offset;
    int64_t bytes;
    bool bounced;               /* data goes through @buf */
    bool abandonable;            /* touches nothing of the caller's */
    bool probe;                 /* passes the gate, which it is a part of */
    int64_t start_ns;

    /* The same, of zone operations; the caller's, not used after a cancel */
    struct {
        BlockZoneOp op;
        unsigned int *nr_zones;
        BlockZoneDescriptor *zones;
        int64_t *append_offset;
    } zone;

    /* Owned by the thread of @dctx->ctx */
    BlkCancelAIOCB *front;      /* NULL once cancelled */
    BlkCancelState state;
    QEMUIOVector *qiov;         /* the caller's; not used after a cancel */
    void *buf;
    QEMUIOVector bounce;        /* @buf; empty if there is none */
    bool charged;               /* its bytes are in @d->budget_used */
    bool has_slot;
    bool throttled;             /* may be in the throttle queue */
    bool waited;                /* may have been issued long after @start_ns */
    bool canceled;
    int ret;

    BlkCancelWaiter waiter;

    /* While ISSUED; protected by BlkCancelCtx.lock */
    int64_t issued_ns;
    QTAILQ_ENTRY(BlkCancelReq) issued;

    /* Protected by BlkCancel.lock, meaningful while abandoned */
    bool abandoned;
    uint64_t seq;
    QTAILQ_ENTRY(BlkCancelReq) next;
};

/*
 * The two halves of blk_cancel_aio(): what is between them may change what the
 * first has set.
 */
BlkCancelReq *blk_cancel_new_req(BlkCancel *d, BlkCancelOp op, int64_t offset,
                                 int64_t bytes, QEMUIOVector *qiov,
                                 BdrvRequestFlags flags);
BlockAIOCB *blk_cancel_submit(BlkCancelReq *r, BlockCompletionFunc *cb,
                              void *opaque);

/* Whether the operation is one of blk-cancel-zoned.c. */
static inline bool blk_cancel_is_zone_op(const BlkCancelReq *r)
{
    return r->op >= BLK_CANCEL_ZONE_REPORT;
}

int coroutine_fn blk_cancel_co_issue_zone_op(BlkCancelReq *r);

static inline bool blk_cancel_changes_disk(const BlkCancelReq *r)
{
    return r->op == BLK_CANCEL_WRITE || r->op == BLK_CANCEL_DISCARD;
}

/*
 * blk_cancel_try_buffer:
 *
 * At submission: if nothing stands in the way, get the bounce buffer at once
 * and copy a write's data into it.  Otherwise blk_cancel_co_admit() does.
 */
void blk_cancel_try_buffer(BlkCancelReq *r);

/*
 * blk_cancel_co_admit:
 *
 * Wait for everything that a request must wait for before it is issued: the
 * end of a drained section, bounce buffer, the fence, a slot, and throttling.
 * On return @r->canceled may be true, or @r->ret negative; what the request
 * holds by then is given back by blk_cancel_release() in either case.
 */
void coroutine_fn blk_cancel_co_admit(BlkCancelReq *r);

/*
 * blk_cancel_unwait:
 *
 * Take a WAITING request off whatever it waits for.  Returns true if it was
 * there; then nobody else wakes its coroutine.  Otherwise it has been woken by
 * another thread and comes by itself.
 */
bool blk_cancel_unwait(BlkCancelReq *r);

/* Give back what @r holds; others may be waiting for it. */
void blk_cancel_release(BlkCancelReq *r);

/* @r is abandoned from now on: requests that come later wait behind it. */
void blk_cancel_enter_abandoned(BlkCancelReq *r);

/* The abandoned @r has finished: wake those that it alone held up. */
void blk_cancel_leave_abandoned(BlkCancelReq *r);

/*
 * blk-cancel-quiesce.c
 */

/* All BlockBackends with cancelling on, and new ones, are known by this. */
void blk_cancel_register(BlkCancel *d);
void blk_cancel_unregister(BlkCancel *d);

/* Whether the gate is closed: requests wait before they hold anything. */
extern bool blk_cancel_gate_closed;

/* A flush that passes the gate, as blk_aio_flush(). */
BlockAIOCB *blk_cancel_aio_probe(BlkCancel *d, BlockCompletionFunc *cb,
                                 void *opaque);

/* @r is with the storage, and is not any more. */
void blk_cancel_enter_issued(BlkCancelReq *r);
void blk_cancel_leave_issued(BlkCancelReq *r);

/* Initialise @w for @r, or for a request that is not ours if @r is NULL. */
void blk_cancel_init_waiter(BlkCancelWaiter *w, BlkCancelReq *r,
                            int64_t offset, int64_t bytes);

/* What @d has with the storage at @now, of get_clock().  Context: BQL held. */
void blk_cancel_look(BlkCancel *d, int64_t now, BlkCancelLoad *load);

/* When the engine comes and goes.  Context: main loop, BQL held. */
void blk_cancel_stats_init(BlkCancel *d);
void blk_cancel_stats_cleanup(BlkCancel *d);

/* Called with d->lock held: before @r is in, or out of, the list and counts. */
void blk_cancel_stats_enter_locked(BlkCancelReq *r);
void blk_cancel_stats_leave_locked(BlkCancelReq *r);

/* Called with d->lock held: the figures kept here. */
void blk_cancel_stats_query_locked(BlkCancel *d, BlkCancelInfo *info);

#endif /* BLOCK_BLK_CANCEL_CORE_H */
