/*
 * Cancellable requests: memory that is lent, and swapped when it is taken back
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The copy of each request's data is what cancelling costs every day, for a
 * hang once a year.  On a block device that is opened with O_DIRECT the kernel
 * has pinned a request's pages when it accepts it.  So let it have those of the
 * caller, and when the request is taken back give the caller other pages with
 * the same contents: blk-cancel-pin.h says how the file below is asked,
 * page-swap.h what is done then.
 *
 * A request is lent only if all of this is so; in every other case its data
 * goes through a buffer:
 * - it reads or writes whole pages, as many as the kernel takes at once, and a
 *   write is not to be stable when it ends: the flush that would make it so
 *   comes after an end that an abandoned request does not have;
 * - nothing but the format "raw" is between the BlockBackend and a file that
 *   can tell what the kernel has pinned (raw_lends()), nothing that could see
 *   the data, split it, or do a part of it again;
 * - whoever owns the memory says that it may be swapped: BlkCancelSwap.
 *
 * What the kernel does not take so it has not done; it goes through a buffer
 * then.  So does, again, what was swapped in part when the host refused to go
 * on, or what read to a page that was swapped for another request: the data has
 * landed where nobody sees it.
 *
 * The old pages stay pinned until the storage answers, and the new ones come on
 * top: as much as a buffer would, and it is charged as that, before the request
 * is issued.
 */

#include "qemu/osdep.h"
#include "qemu/coroutine-tls.h"
#include "qemu/memalign.h"
#include "qemu/page-swap.h"
#include "qemu/units.h"
#include "block/block_int.h"
#include "system/block-backend.h"
#include "blk-cancel-core.h"
#include "trace/trace-block_cancel.h"

/* A bio of Linux' has so many; what needs two is refused where one may wait */
#define MAX_PAGES   256

QEMU_DEFINE_STATIC_CO_TLS(BlkPin *, offered)

void blk_pin_offer(BlkPin *pin)
{
    set_offered(pin);
}

void blk_pin_withdraw(BlkPin *pin)
{
    if (get_offered() == pin) {
        set_offered(NULL);
    }
}

BlkPin *blk_pin_find(const QEMUIOVector *qiov)
{
    BlkPin *pin = get_offered();

    return pin && pin->qiov == qiov ? pin : NULL;
}

static bool has_whole_pages(const QEMUIOVector *qiov)
{
    size_t mask = qemu_real_host_page_size() - 1;
    uintptr_t odd = 0;

    for (int i = 0; i < qiov->niov; i++) {
        odd |= (uintptr_t)qiov->iov[i].iov_base | qiov->iov[i].iov_len;
    }
    return !(odd & mask);
}

static bool GRAPH_RDLOCK may_pass(const BlkCancelReq *r, BlockDriverState *bs)
{
    uint32_t max = bs->bl.max_transfer;

    return !qatomic_read(&bs->copy_on_read) && !bs->detect_zeroes &&
           !bs->probed && bs->bl.zoned == BLK_Z_NONE &&
           QEMU_IS_ALIGNED(r->offset | r->bytes, bs->bl.request_alignment) &&
           (!max || r->bytes <= max);
}

/* Whether nothing that matters is between @r's BlockBackend and the file. */
static bool GRAPH_RDLOCK reaches_file(const BlkCancelReq *r)
{
    BlockDriverState *bs = blk_bs(r->ctx->d->blk);

    if (bs && bs->drv == &bdrv_raw) {
        if (!may_pass(r, bs) || !bs->file) {
            return false;
        }
        bs = bs->file->bs;
    }
    return bs && bs->drv && may_pass(r, bs) && raw_lends(bs);
}

static bool coroutine_fn can_lend(const BlkCancelReq *r)
{
    BlockBackend *blk = r->ctx->d->blk;

    if ((r->flags & ~BDRV_REQ_REGISTERED_BUF) ||
        (r->op == BLK_CANCEL_WRITE && !blk_enable_write_cache(blk)) ||
        r->bytes > MAX_PAGES * qemu_real_host_page_size() ||
        r->qiov->niov > MAX_PAGES || r->qiov->size != r->bytes ||
        !has_whole_pages(r->qiov) || !r->ctx->d->opts.swap->is_possible()) {
        return false;
    }
    GRAPH_RDLOCK_GUARD();
    return reaches_file(r);
}

bool coroutine_fn blk_cancel_co_lend(BlkCancelReq *r)
{
    if (!can_lend(r)) {
        return false;
    }
    /* The caller's vector may go at a cancel, and the layers below read it. */
    if (r->qiov->niov == 1) {
        qemu_iovec_init_buf(&r->bounce, r->qiov->iov[0].iov_base, r->bytes);
    } else {
        qemu_iovec_init(&r->bounce, r->qiov->niov);
        qemu_iovec_concat(&r->bounce, r->qiov, 0, r->bytes);
    }
    r->pin = (BlkPin) { .qiov = &r->bounce };
    r->bounced = false;
    r->lent = true;
    return true;
}

void blk_cancel_end_lent(BlkCancelReq *r)
{
    if (r->bounce.nalloc > 0) {
        qemu_iovec_destroy(&r->bounce);
    }
    r->lent = false;
}

/* The result of what was taken back has come another way. */
bool blk_cancel_lent_returned(BlkCancelReq *r)
{
    if (r->abandoned) {
        r->ret = r->pin.ret;
        return false;
    }
    return r->pin.refused || r->pin.swapped;
}

bool blk_cancel_swap(BlkCancelReq *r)
{
    const BlkCancelSwap *swap = r->ctx->d->opts.swap;
    g_autofree struct iovec *iov = NULL;
    int ret, niov = r->bounce.niov;

    if (!r->pin.is_accepted ||
        !r->pin.is_accepted(r->pin.opaque) ||
        !swap->may_swap(r->bounce.iov, niov)) {
        return false;
    }
    iov = g_memdup2(r->bounce.iov, niov * sizeof(*iov));
    /* Also if this fails in the middle; it may be tried again then */
    r->pin.swapped = true;
    ret = page_swap(iov, niov);
    trace_blk_cancel_swap(r->ctx->d->blk, r, r->bytes, ret);
    if (ret < 0) {
        return false;
    }
    if (r->op == BLK_CANCEL_READ) {
        swap->written(r->bounce.iov, niov);
    }
    return true;
}
