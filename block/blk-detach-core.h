/*
 * Detachable requests: the parts of the engine share this
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * blk-detach.c has the two halves of a request, and cancels it; in
 * blk-detach-wait.c are the places where a request waits before it is issued;
 * blk-detach-zoned.c has the operations that only zoned storage has;
 * blk-detach-quiesce.c sees to all BlockBackends at once; blk-detach-stats.c
 * counts what happened.
 */

#ifndef BLOCK_BLK_DETACH_CORE_H
#define BLOCK_BLK_DETACH_CORE_H

#include "block/blk-detach-quiesce.h"
#include "block/blk-detach_int.h"
#include "block/throttle-groups.h"
#include "qemu/queue.h"
#include "qemu/thread.h"
#include "blk-detach-pool.h"

typedef enum BlkDetachState {
    BLK_DETACH_NEW,
    BLK_DETACH_WAITING,
    BLK_DETACH_ISSUED,
} BlkDetachState;

/* Where a coroutine waits; each has a list in BlkDetach. */
typedef enum BlkDetachWait {
    WAIT_DRAINED,               /* for a drained section's end, or the gate */
    WAIT_BUFFER,                /* until a bounce buffer fits the budget */
    WAIT_FENCE,                 /* behind detached requests */
    WAIT_SLOT,                  /* until fewer requests are with the storage */
    WAIT__MAX,
    WAIT_NOT = WAIT__MAX,       /* not on a list */
} BlkDetachWait;

typedef struct BlkDetachReq BlkDetachReq;

typedef struct BlkDetachWaiter {
    /* Set once */
    Coroutine *co;
    BlkDetachReq *req;          /* NULL: not one of ours, at the fence only */

    /* Protected by BlkDetach.lock */
    BlkDetachWait where;
    unsigned int blockers;      /* WAIT_FENCE: detached requests in its way */
    QTAILQ_ENTRY(BlkDetachWaiter) next;

    /* Written by the coroutine before it waits */
    int64_t offset;
    int64_t bytes;
    uint64_t seq;               /* WAIT_FENCE: the newest that is in its way */
} BlkDetachWaiter;

typedef QTAILQ_HEAD(, BlkDetachWaiter) BlkDetachWaiterList;

/* What requests of one BlockBackend in one AioContext share. */
typedef struct BlkDetachCtx {
    AioContext *ctx;            /* set once */
    unsigned int issued;        /* slots taken; atomic */
    BlkDetachPool pool;         /* owned by the thread of @ctx */
    QSLIST_ENTRY(BlkDetachCtx) next;

    /* Added and removed by the thread of @ctx, under the lock */
    QemuSpin lock;
    QTAILQ_HEAD(, BlkDetachReq) issued_reqs;
} BlkDetachCtx;

/* For blk-detach-stats.c */
typedef struct BlkDetachFigures {
    QEMUBH *report_bh;          /* set once; scheduled by any thread */
    char *qom_path;             /* set once; outlives the device */
    char *qdev_id;              /* the same, or NULL */
    bool reported_hung;         /* owned by the main loop */

    /* Protected by BlkDetach.lock; since the figures were reset */
    uint64_t cancels[BLK_CANCEL__MAX];
    uint64_t seq_at_reset;      /* BlkDetach.seq then */
    int64_t max_ns;             /* highest age of a finished request */

    /* Protected by BlkDetach.lock */
    uint64_t bytes;             /* of all that are detached */

    /* Protected by BlkDetach.lock; since none was detached last */
    uint64_t seq_before_hang;   /* BlkDetach.seq then */
    int64_t hang_max_ns;        /* highest age of a finished request */
} BlkDetachFigures;

struct BlkDetach {
    /* Set once */
    BlockBackend *blk;
    ThrottleGroupMember *tgm;
    BlkDetachOptions opts;

    /* Atomic */
    uint64_t budget_used;       /* bytes of bounce buffer */
    unsigned int issued;        /* slots taken */
    unsigned int nr_waiting;    /* in WAIT_BUFFER and WAIT_SLOT */

    /* Written under the lock, read without it as a hint: atomic */
    unsigned int nr_detached;   /* entries of @detached */
    unsigned int nr_fences;     /* those that change the disk */

    /* Entries are added under the lock and stay; read under RCU rules */
    QSLIST_HEAD(, BlkDetachCtx) ctxs;

    QemuMutex lock;

    /* Protected by the lock */
    QTAILQ_HEAD(, BlkDetachReq) detached;
    BlkDetachWaiterList waiting[WAIT__MAX];
    uint64_t seq;               /* of the request detached last */

    /* BQL */
    QLIST_ENTRY(BlkDetach) all;

    BlkDetachFigures stats;
};

/* The front: the caller's half. */
typedef struct BlkDetachAIOCB {
    BlockAIOCB common;

    /* Set once */
    BlockBackend *blk;
    AioContext *ctx;

    /* Owned by the thread of @ctx */
    BlkDetachReq *req;          /* NULL once the back has returned */
    int ret;
    bool has_returned;          /* blk_aio_*() is over: the callback may run */
    bool canceled;
    bool done;                  /* the callback has run, or runs now */
} BlkDetachAIOCB;

/* The back: the block layer's half. */
struct BlkDetachReq {
    /* Set once, at submission */
    BlkDetach *d;
    BlkDetachCtx *dctx;
    BlkDetachOp op;
    BdrvRequestFlags flags;
    int64_t offset;
    int64_t bytes;
    bool bounced;               /* data goes through @buf */
    bool detachable;            /* touches nothing of the caller's */
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
    BlkDetachAIOCB *front;      /* NULL once cancelled */
    BlkDetachState state;
    QEMUIOVector *qiov;         /* the caller's; not used after a cancel */
    void *buf;
    QEMUIOVector bounce;        /* @buf; empty if there is none */
    bool charged;               /* its bytes are in @d->budget_used */
    bool has_slot;
    bool throttled;             /* may be in the throttle queue */
    bool waited;                /* may have been issued long after @start_ns */
    bool canceled;
    int ret;

    BlkDetachWaiter waiter;

    /* While ISSUED; protected by BlkDetachCtx.lock */
    int64_t issued_ns;
    QTAILQ_ENTRY(BlkDetachReq) issued;

    /* Protected by BlkDetach.lock, meaningful while detached */
    bool detached;
    uint64_t seq;
    QTAILQ_ENTRY(BlkDetachReq) next;
};

/*
 * The two halves of blk_detach_aio(): what is between them may change what the
 * first has set.
 */
BlkDetachReq *blk_detach_new_req(BlkDetach *d, BlkDetachOp op, int64_t offset,
                                 int64_t bytes, QEMUIOVector *qiov,
                                 BdrvRequestFlags flags);
BlockAIOCB *blk_detach_submit(BlkDetachReq *r, BlockCompletionFunc *cb,
                              void *opaque);

/* Whether the operation is one of blk-detach-zoned.c. */
static inline bool blk_detach_is_zone_op(const BlkDetachReq *r)
{
    return r->op >= BLK_DETACH_ZONE_REPORT;
}

int coroutine_fn blk_detach_co_issue_zone_op(BlkDetachReq *r);

static inline bool blk_detach_changes_disk(const BlkDetachReq *r)
{
    return r->op == BLK_DETACH_WRITE || r->op == BLK_DETACH_DISCARD;
}

/*
 * blk_detach_try_buffer:
 *
 * At submission: if nothing stands in the way, get the bounce buffer at once
 * and copy a write's data into it.  Otherwise blk_detach_co_admit() does.
 */
void blk_detach_try_buffer(BlkDetachReq *r);

/*
 * blk_detach_co_admit:
 *
 * Wait for everything that a request must wait for before it is issued: the
 * end of a drained section, bounce buffer, the fence, a slot, and throttling.
 * On return @r->canceled may be true, or @r->ret negative; what the request
 * holds by then is given back by blk_detach_release() in either case.
 */
void coroutine_fn blk_detach_co_admit(BlkDetachReq *r);

/*
 * blk_detach_unwait:
 *
 * Take a WAITING request off whatever it waits for.  Returns true if it was
 * there; then nobody else wakes its coroutine.  Otherwise it has been woken by
 * another thread and comes by itself.
 */
bool blk_detach_unwait(BlkDetachReq *r);

/* Give back what @r holds; others may be waiting for it. */
void blk_detach_release(BlkDetachReq *r);

/* @r is detached from now on: requests that come later wait behind it. */
void blk_detach_enter_detached(BlkDetachReq *r);

/* The detached @r has finished: wake those that it alone held up. */
void blk_detach_leave_detached(BlkDetachReq *r);

/*
 * blk-detach-quiesce.c
 */

/* All BlockBackends with detaching on, and new ones, are known by this. */
void blk_detach_register(BlkDetach *d);
void blk_detach_unregister(BlkDetach *d);

/* Whether the gate is closed: requests wait before they hold anything. */
extern bool blk_detach_gate_closed;

/* A flush that passes the gate, as blk_aio_flush(). */
BlockAIOCB *blk_detach_aio_probe(BlkDetach *d, BlockCompletionFunc *cb,
                                 void *opaque);

/* @r is with the storage, and is not any more. */
void blk_detach_enter_issued(BlkDetachReq *r);
void blk_detach_leave_issued(BlkDetachReq *r);

/* Initialise @w for @r, or for a request that is not ours if @r is NULL. */
void blk_detach_init_waiter(BlkDetachWaiter *w, BlkDetachReq *r,
                            int64_t offset, int64_t bytes);

/* What @d has with the storage at @now, of get_clock().  Context: BQL held. */
void blk_detach_look(BlkDetach *d, int64_t now, BlkDetachLoad *load);

/* When the engine comes and goes.  Context: main loop, BQL held. */
void blk_detach_stats_init(BlkDetach *d);
void blk_detach_stats_cleanup(BlkDetach *d);

/* Called with d->lock held: before @r is in, or out of, the list and counts. */
void blk_detach_stats_enter_locked(BlkDetachReq *r);
void blk_detach_stats_leave_locked(BlkDetachReq *r);

/* Called with d->lock held: the figures kept here. */
void blk_detach_stats_query_locked(BlkDetach *d, BlkDetachInfo *info);

#endif /* BLOCK_BLK_DETACH_CORE_H */
