/*
 * QEMU NVMe: which blocks read as zeroes, asked without waiting
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On a namespace with metadata, deallocation and all that reads protection
 * information need to know which blocks read as zeroes.  The block layer's
 * answer is waited for in an event loop of its own, in the middle of a command:
 * storage that hangs stops the machine there, other commands end while this one
 * is being taken back, and whoever drains waits for a command that waits for
 * him.  So with cancelling on the question is a step of the command, like a
 * read: it has a BlockAIOCB, and can be taken back.
 *
 * A question that was taken back touches nothing of the command's any more.  It
 * changes nothing on the disk, so no later command waits for it; but it counts
 * as in flight in its BlockBackend until the storage has answered.  While many
 * such ones are with the storage, new ones wait.
 *
 * Hooks: ctrl.c and dif.c.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "block/block-io.h"
#include "block/graph-lock.h"
#include "system/block-backend.h"

#include "nvme.h"
#include "dif.h"
#include "trace.h"

/* How many may be taken back and unanswered before new ones wait. */
#define MAX_ABANDONED 48

typedef struct NvmeStatusQuery NvmeStatusQuery;

/* The command's half, which it knows as a BlockAIOCB */
typedef struct NvmeStatusAIOCB {
    BlockAIOCB common;
    NvmeStatusQuery *query;     /* NULL once it is over, or taken back */
    NvmeRequest *req;           /* set once */

    /* Set once: metadata to be marked, or NULL, and what of each block's */
    uint8_t *mbuf;
    size_t blocks;
    size_t stride;
    size_t at;
    size_t len;
} NvmeStatusAIOCB;

/* The block layer's half; freed by its coroutine, protected by the BQL */
struct NvmeStatusQuery {
    /* Set once */
    BlockBackend *blk;
    Coroutine *co;
    unsigned int shift;         /* bytes to blocks */

    NvmeStatusAIOCB *front;     /* NULL once taken back */
    bool waiting;               /* it is in @waiting below */

    /* Written by the coroutine */
    int64_t offset;             /* what is left to be asked */
    int64_t bytes;
    unsigned long *zeroed;      /* by block; NULL: only whether all are */
    int ret;                    /* 1 if not all are zeroed, 0, or -errno */

    QTAILQ_ENTRY(NvmeStatusQuery) next; /* in one of these lists */
};

/* Those taken back that are not over; BQL */
static QTAILQ_HEAD(, NvmeStatusQuery) abandoned =
    QTAILQ_HEAD_INITIALIZER(abandoned);

/* Those that wait for some of them; BQL */
static QTAILQ_HEAD(, NvmeStatusQuery) waiting =
    QTAILQ_HEAD_INITIALIZER(waiting);

static unsigned int count_abandoned(BlockBackend *blk)
{
    NvmeStatusQuery *q;
    unsigned int n = 0;

    QTAILQ_FOREACH(q, &abandoned, next) {
        n += q->blk == blk;
    }
    return n;
}

static void stop_waiting(NvmeStatusQuery *q)
{
    QTAILQ_REMOVE(&waiting, q, next);
    q->waiting = false;
    aio_co_schedule(qemu_get_aio_context(), q->co);
}

static void status_cancel(BlockAIOCB *acb)
{
    NvmeStatusAIOCB *front = container_of(acb, NvmeStatusAIOCB, common);
    NvmeStatusQuery *q = front->query;

    if (!q) {
        return;
    }
    front->query = NULL;
    q->front = NULL;
    if (q->waiting) {
        stop_waiting(q);
    }
    QTAILQ_INSERT_TAIL(&abandoned, q, next);
    acb->cb(acb->opaque, -ECANCELED);
    qemu_aio_unref(front);
}

static const AIOCBInfo status_aiocb_info = {
    .aiocb_size   = sizeof(NvmeStatusAIOCB),
    .cancel_async = status_cancel,
};

static int coroutine_fn status_co_one(NvmeStatusQuery *q, int64_t *pnum)
{
    GRAPH_RDLOCK_GUARD();

    if (!blk_co_is_available(q->blk)) {
        return -ENOMEDIUM;
    }
    return bdrv_co_block_status(blk_bs(q->blk), q->offset, q->bytes, pnum,
                                NULL, NULL);
}

/* Not zeroed are all blocks that any of these bytes belong to. */
static void note_data(NvmeStatusQuery *q, int64_t begin, int64_t bytes)
{
    int64_t first = begin >> q->shift;
    int64_t last = (begin + bytes - 1) >> q->shift;

    q->ret = 1;
    if (q->zeroed) {
        bitmap_clear(q->zeroed, first, last - first + 1);
    }
}

static void coroutine_fn status_co_ask(NvmeStatusQuery *q)
{
    int64_t begin = q->offset;

    while (q->front && q->bytes && (q->zeroed || !q->ret)) {
        int64_t pnum;
        int ret = status_co_one(q, &pnum);

        if (ret < 0) {
            /* -EINPROGRESS has a meaning of its own */
            q->ret = ret == -EINPROGRESS ? -EIO : ret;
            return;
        }
        trace_pci_nvme_block_status(q->offset, q->bytes, pnum, ret,
                                    !!(ret & BDRV_BLOCK_ZERO));
        if (!pnum) {
            /* The disk ends here */
            pnum = q->bytes;
        }
        if (!(ret & BDRV_BLOCK_ZERO)) {
            note_data(q, q->offset - begin, pnum);
        }
        q->offset += pnum;
        q->bytes -= pnum;
    }
}

/* What stands for "no protection information": see nvme_dif_mangle_mdata(). */
static void mark_zeroed(const NvmeStatusAIOCB *front,
                        const unsigned long *zeroed)
{
    for (size_t i = 0; i < front->blocks; i++) {
        if (test_bit(i, zeroed)) {
            memset(front->mbuf + i * front->stride + front->at, 0xff,
                   front->len);
        }
    }
}

/* The command goes on; it may have ended on return. */
static void answer(NvmeStatusQuery *q)
{
    NvmeStatusAIOCB *front = q->front;
    NvmeCancelReq *d = &front->req->cancel;

    if (front->mbuf && q->ret >= 0) {
        mark_zeroed(front, q->zeroed);
    }
    d->answered = true;
    d->answer = q->ret;
    front->query = NULL;
    front->common.cb(front->common.opaque, 0);
    qemu_aio_unref(front);
}

static void coroutine_fn status_entry(void *opaque)
{
    NvmeStatusQuery *q = opaque;
    BlockBackend *blk = q->blk;
    NvmeStatusQuery *w, *next;

    while (q->front && count_abandoned(blk) >= MAX_ABANDONED) {
        q->waiting = true;
        QTAILQ_INSERT_TAIL(&waiting, q, next);
        qemu_coroutine_yield();
    }
    status_co_ask(q);

    if (q->front) {
        answer(q);
    } else {
        QTAILQ_REMOVE(&abandoned, q, next);
        QTAILQ_FOREACH_SAFE(w, &waiting, next, next) {
            stop_waiting(w);
        }
    }
    g_free(q->zeroed);
    g_free(q);
    blk_dec_in_flight(blk);
}

static BlockAIOCB *ask(NvmeRequest *req, NvmeNamespace *ns, uint64_t slba,
                       uint32_t nlb, uint8_t *mbuf, BlockCompletionFunc *cb,
                       void *opaque)
{
    BlockBackend *blk = ns->blkconf.blk;
    NvmeStatusAIOCB *front = blk_aio_get(&status_aiocb_info, blk, cb, opaque);
    NvmeStatusQuery *q = g_new0(NvmeStatusQuery, 1);

    front->query = q;
    front->req = req;
    front->mbuf = mbuf;

    q->blk = blk;
    q->co = qemu_coroutine_create(status_entry, q);
    q->offset = nvme_l2b(ns, slba);
    q->bytes = nvme_l2b(ns, nlb);
    q->shift = ns->lbaf.ds;
    q->front = front;
    if (mbuf) {
        front->blocks = nlb;
        front->stride = ns->lbaf.ms;
        front->len = nvme_pi_tuple_size(ns);
        front->at = ns->id_ns.dps & NVME_ID_NS_DPS_FIRST_EIGHT
            ? 0 : front->stride - front->len;
        q->zeroed = bitmap_new(nlb);
        bitmap_set(q->zeroed, 0, nlb);
    }

    /* Not at once: the caller has to know the BlockAIOCB first. */
    blk_inc_in_flight(blk);
    aio_co_schedule(qemu_get_aio_context(), q->co);
    return &front->common;
}

static bool take_answer(NvmeRequest *req, int *answer)
{
    bool answered = req->cancel.answered;

    *answer = req->cancel.answer;
    req->cancel.answered = false;
    return answered;
}

int nvme_cancel_all_zeroed(NvmeRequest *req, uint64_t slba, uint32_t nlb,
                           BlockAIOCB **step, BlockCompletionFunc *cb,
                           void *opaque)
{
    int ret;

    if (!take_answer(req, &ret)) {
        *step = ask(req, req->ns, slba, nlb, NULL, cb, opaque);
        ret = -EINPROGRESS;
    }
    return ret;
}

uint16_t nvme_cancel_mangle_mdata(NvmeRequest *req, NvmeNamespace *ns,
                                  uint8_t *mbuf, size_t mlen, uint64_t slba,
                                  BlockAIOCB **step, BlockCompletionFunc *cb,
                                  void *opaque)
{
    int ret;

    if (!ns->cancelling) {
        return nvme_dif_mangle_mdata(ns, mbuf, mlen, slba);
    }
    if (!take_answer(req, &ret)) {
        *step = ask(req, ns, slba, mlen / ns->lbaf.ms, mbuf, cb, opaque);
        return NVME_NO_COMPLETE;
    }
    if (ret < 0) {
        error_report("unable to get block status: %s", strerror(-ret));
        return NVME_INTERNAL_DEV_ERROR;
    }
    return NVME_SUCCESS;
}
