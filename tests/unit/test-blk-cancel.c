/*
 * Requests of a BlockBackend that can be taken back: cancel in each state
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What happens when blk_aio_cancel_async() is called on a request that is new,
 * issued, returned or done; who may touch which buffer when; what callbacks
 * may do.  Requests that wait are cancelled in the other files of this
 * program: test-blk-cancel-fence.c, -budget.c, -drain.c and -throttle.c.  What
 * is counted is in test-blk-cancel-stats.c.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "blk-cancel-rig.h"

#define OFFSET  (16 * RIG_BLOCK)
#define BYTES   (4 * RIG_BLOCK)

/* The value of the request's range after a request of ours has landed */
static uint8_t content_after(RigOp op, uint8_t pattern)
{
    switch (op) {
    case RIG_WRITE:
        return pattern;
    case RIG_ZEROES:
        return RIG_ZEROED;
    case RIG_DISCARD:
        return RIG_DISCARDED;
    default:
        return RIG_INITIAL;
    }
}

static uint64_t bounce_bytes(RigOp op)
{
    return op == RIG_READ || op == RIG_WRITE ? BYTES : 0;
}

/*
 * NEW: submitted inside a coroutine, so that its own is not entered yet
 */

static void submit_and_cancel_new(void *opaque)
{
    RigReq *req = opaque;

    rig_submit_here(req);
    g_assert_cmpuint(rig_arrived(req->rig), ==, 0);
    g_assert_cmpuint(rig_info(req->rig).budget_used, ==, 0);
    rig_cancel_here(req);
    rig_check_canceled(req);
    memset(req->buf, 0xee, req->bytes);
}

static void test_new(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = rig_prepare(rig, 0, v->op, OFFSET, BYTES, 0xaa);

    rig_run_co(req->ctx, submit_and_cancel_new, req);
    rig_wait_idle(rig);
    rig_settle(rig);

    rig_check_canceled(req);
    g_assert_cmpuint(rig_arrived(rig), ==, 0);
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 0);
    rig_check_disk(rig, 0, RIG_DISK_SIZE, RIG_INITIAL);
    rig_end(rig);
}

static void submit_new(void *opaque)
{
    RigReq *req = opaque;

    rig_submit_here(req);
    g_assert_cmpuint(rig_arrived(req->rig), ==, 0);
}

static void test_new_goes_on(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = rig_prepare(rig, 0, v->op, OFFSET, BYTES, 0xaa);

    rig_set_holding(rig, false);
    rig_run_co(req->ctx, submit_new, req);
    rig_check_result(req, 0);
    g_assert_cmpuint(rig_nr_landed(rig), ==, 1);
    rig_check_disk(rig, OFFSET, BYTES, content_after(v->op, 0xaa));
    rig_end(rig);
}

/*
 * ISSUED
 */

static void test_issued(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = rig_submit(rig, 0, v->op, OFFSET, BYTES, 0xaa);
    uint8_t mine = v->op == RIG_READ ? RIG_UNREAD : 0xaa;

    rig_wait(rig_nr_held(rig) == 1);
    rig_check_pending(req);
    rig_check_info(rig, 0, 0, 0, 0);
    g_assert_cmpuint(rig_info(rig).budget_used, ==, bounce_bytes(v->op));

    rig_cancel(req);
    rig_check_canceled(req);
    rig_check_info(rig, 1, 0, 0, 0);
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 1);
    g_assert_cmpuint(rig_info(rig).budget_used, ==, bounce_bytes(v->op));
    rig_wait(rig_info(rig).oldest_ns > 0);
    rig_check_buf(req, mine);

    rig_release_all(rig);
    rig_wait_idle(rig);
    rig_settle(rig);
    rig_check_canceled(req);
    rig_check_buf(req, mine);
    g_assert_cmpuint(rig_nr_landed(rig), ==, 1);
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 1);
    rig_check_disk(rig, OFFSET, BYTES, content_after(v->op, 0xaa));
    rig_end(rig);
}

static void free_everything(RigReq *req)
{
    g_free(g_steal_pointer(&req->mem));
    memset(req->iov, 0xff, sizeof(req->iov));
    memset(&req->qiov, 0xff, sizeof(req->qiov));
}

/* The caller's buffer and vector need not outlive the callback. */
static void test_issued_freed(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = rig_submit(rig, 0, v->op, OFFSET, BYTES, 0xaa);

    rig_wait(rig_nr_held(rig) == 1);
    req->then = free_everything;
    rig_cancel(req);
    rig_check_canceled(req);
    rig_release_all(rig);
    rig_wait_idle(rig);
    rig_check_disk(rig, OFFSET, BYTES, content_after(v->op, 0xaa));
    rig_end(rig);
}

/* Not even if they are empty: drivers look at the vector nevertheless. */
static void test_issued_empty(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = rig_prepare(rig, 0, v->op, OFFSET, 0, 0);

    req->flags = BDRV_REQ_REGISTERED_BUF;
    rig_submit_prepared(req);
    rig_wait(rig_nr_held(rig) == 1);
    g_assert_cmpuint(rig_info(rig).budget_used, ==, 0);
    req->then = free_everything;
    rig_cancel(req);
    rig_check_canceled(req);
    rig_check_info(rig, 1, 0, 0, 0);
    rig_release_all(rig);
    rig_wait_idle(rig);
    g_assert_cmpuint(rig->registered, ==, 0);
    rig_check_disk(rig, 0, RIG_DISK_SIZE, RIG_INITIAL);
    rig_end(rig);
}

/* What an abandoned request returns in the end is nobody's business. */
static void test_issued_fails(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = rig_submit(rig, 0, v->op, OFFSET, BYTES, 0xaa);

    rig_wait(rig_nr_held(rig) == 1);
    rig_cancel(req);
    g_assert_true(rig_release_nth(rig, 0, -EIO));
    rig_wait_idle(rig);
    rig_settle(rig);
    rig_check_canceled(req);
    rig_check_disk(rig, 0, RIG_DISK_SIZE, RIG_INITIAL);
    rig_end(rig);
}

/*
 * RETURNED: the driver answers before submission returns
 */

static void submit_and_cancel_returned(void *opaque)
{
    RigReq *req = opaque;

    rig_submit_here(req);
    rig_check_pending(req);
    rig_cancel_here(req);
    g_assert_cmpuint(rig_req_calls(req), ==, 1);
}

static void do_test_returned(const RigVariant *v, int ret)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = rig_prepare(rig, 0, v->op, OFFSET, BYTES, 0xaa);

    rig_set_holding(rig, false);
    rig_set_sync_ret(rig, ret);
    rig_run(req->ctx, submit_and_cancel_returned, req);
    rig_check_result(req, ret);
    rig_check_buf(req, v->op != RIG_READ ? 0xaa :
                       ret ? RIG_UNREAD : RIG_INITIAL);
    g_assert_cmpuint(rig_nr_landed(rig), ==, 1);

    rig_settle(rig);
    rig_check_result(req, ret);
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 0);
    rig_end(rig);
}

static void test_returned(const RigVariant *v)
{
    do_test_returned(v, 0);
}

static void test_returned_eio(const RigVariant *v)
{
    do_test_returned(v, -EIO);
}

static void test_returned_ecanceled(const RigVariant *v)
{
    do_test_returned(v, -ECANCELED);
}

/* Refused by the BlockBackend itself, before there was anything to issue */
static void test_returned_beyond_end(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = rig_prepare(rig, 0, v->op, 0, BYTES, 0xaa);

    req->offset = RIG_DISK_SIZE - RIG_BLOCK;
    rig_run(req->ctx, submit_and_cancel_returned, req);
    rig_check_result(req, -EIO);
    g_assert_cmpuint(rig_arrived(rig), ==, 0);
    rig_end(rig);
}

/*
 * DONE
 */

static void ref_fn(void *opaque)
{
    RigReq *req = opaque;

    qemu_aio_ref(req->acb);
}

static void cancel_opaque_fn(void *opaque)
{
    RigReq *req = opaque;

    blk_aio_cancel_async(req->opaque);
    qemu_aio_unref(req->opaque);
}

static void test_done(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = rig_submit(rig, 0, v->op, OFFSET, BYTES, 0xaa);

    rig_wait(rig_nr_held(rig) == 1);
    req->opaque = req->acb;
    rig_run(req->ctx, ref_fn, req);
    rig_release_all(rig);
    rig_check_result(req, 0);
    rig_run(req->ctx, cancel_opaque_fn, req);
    rig_settle(rig);
    rig_check_result(req, 0);
    rig_end(rig);
}

/* The same after the callback was called by a cancel */
static void test_done_canceled(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = rig_submit(rig, 0, v->op, OFFSET, BYTES, 0xaa);

    rig_wait(rig_nr_held(rig) == 1);
    req->opaque = req->acb;
    rig_run(req->ctx, ref_fn, req);
    rig_cancel(req);
    rig_check_canceled(req);
    rig_release_all(rig);
    rig_wait_idle(rig);
    rig_run(req->ctx, cancel_opaque_fn, req);
    rig_check_canceled(req);
    rig_end(rig);
}

/*
 * Buffers
 */

/* What hangs keeps the content that the write had at submission. */
static void test_buffer_copy(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) kept = rig_submit(rig, 0, RIG_WRITE, 0, BYTES, 0xaa);
    g_autoptr(RigReq) canceled = rig_submit(rig, 1, RIG_WRITE, OFFSET, BYTES,
                                            0xbb);

    rig_wait(rig_nr_held(rig) == 2);
    memset(kept->buf, 0xee, BYTES);
    memset(canceled->buf, 0xee, BYTES);
    rig_cancel(canceled);
    rig_release_all(rig);
    rig_check_result(kept, 0);
    rig_wait_idle(rig);
    rig_check_disk(rig, 0, BYTES, 0xaa);
    rig_check_disk(rig, OFFSET, BYTES, 0xbb);
    rig_end(rig);
}

/* Data must go to the right place in the caller's vector, and only there. */
static void test_buffer_read_back(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = NULL;

    for (int i = 0; i < BYTES; i++) {
        rig->disk[OFFSET + i] = i % 251;
    }
    req = rig_submit(rig, 0, RIG_READ, OFFSET, BYTES, 0);
    req->mem[0] = 0x5a;
    req->mem[1 + BYTES] = 0x5a;
    rig_wait(rig_nr_held(rig) == 1);
    rig_check_buf(req, RIG_UNREAD);
    rig_release_all(rig);
    rig_check_result(req, 0);
    for (int i = 0; i < BYTES; i++) {
        g_assert_cmphex(req->buf[i], ==, i % 251);
    }
    g_assert_cmphex(req->mem[0], ==, 0x5a);
    g_assert_cmphex(req->mem[1 + BYTES], ==, 0x5a);
    rig_end(rig);
}

/* A failed read leaves the buffer alone, as there is nothing to copy. */
static void test_buffer_failed_read(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = rig_submit(rig, 0, RIG_READ, OFFSET, BYTES, 0);

    rig_wait(rig_nr_held(rig) == 1);
    rig_release_ret(rig, RIG_READ, OFFSET, -EIO);
    rig_check_result(req, -EIO);
    rig_check_buf(req, RIG_UNREAD);
    rig_end(rig);
}

/* Bounce buffers fit O_DIRECT, and are not the ones the caller registered. */
static void test_buffer_aligned(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    static const int64_t sizes[] = {
        512, RIG_BLOCK - 512, RIG_BLOCK, 3 * RIG_BLOCK + 512,
        128 * KiB, RIG_DISK_SIZE,
    };

    rig_set_holding(rig, false);
    for (int i = 0; i < ARRAY_SIZE(sizes); i++) {
        g_autoptr(RigReq) wr = rig_prepare(rig, 0, RIG_WRITE, 0, sizes[i], i);
        g_autoptr(RigReq) rd = rig_prepare(rig, 1, RIG_READ, 0, sizes[i], 0);

        wr->flags = rd->flags = BDRV_REQ_REGISTERED_BUF;
        rig_submit_prepared(wr);
        rig_check_result(wr, 0);
        rig_submit_prepared(rd);
        rig_check_result(rd, 0);
        rig_check_buf(rd, i);
    }
    g_assert_cmpuint(rig->misaligned, ==, 0);
    g_assert_cmpuint(rig->registered, ==, 0);
    rig_end(rig);
}

/*
 * Callbacks
 */

static void cancel_self(RigReq *req)
{
    rig_cancel_here(req);
}

static void test_callback_cancels_itself(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) done = rig_submit(rig, 0, v->op, 0, BYTES, 0xaa);
    g_autoptr(RigReq) canceled = rig_submit(rig, 0, RIG_WRITE, OFFSET, BYTES,
                                            0xbb);

    done->then = cancel_self;
    canceled->then = cancel_self;
    rig_wait(rig_nr_held(rig) == 2);
    rig_cancel(canceled);
    rig_check_canceled(canceled);
    rig_release_all(rig);
    rig_check_result(done, 0);
    rig_settle(rig);
    rig_check_result(done, 0);
    rig_end(rig);
}

static void cancel_other(RigReq *req)
{
    RigReq *other = req->opaque;

    rig_cancel_here(other);
    rig_check_canceled(other);
}

/* From a completion callback, which runs in a coroutine */
static void test_callback_cancels_other(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = rig_submit(rig, 0, RIG_READ, 0, BYTES, 0);
    g_autoptr(RigReq) other = rig_submit(rig, 0, v->op, OFFSET, BYTES, 0xbb);

    req->then = cancel_other;
    req->opaque = other;
    rig_wait(rig_nr_held(rig) == 2);
    rig_release(rig, RIG_READ, 0);
    rig_check_result(req, 0);
    rig_check_canceled(other);
    rig_check_info(rig, 1, 0, 0, 0);
    rig_end(rig);
}

/* From inside a cancel, five deep */
static void test_callback_cancels_nested(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    RigReq *req[5];

    for (int i = 0; i < 5; i++) {
        req[i] = rig_submit(rig, 0, RIG_WRITE, i * BYTES, BYTES, i);
        if (i > 0) {
            req[i]->then = cancel_other;
            req[i]->opaque = req[i - 1];
        }
    }
    rig_wait(rig_nr_held(rig) == 5);
    rig_cancel(req[4]);
    rig_check_info(rig, 5, 0, 0, 0);
    rig_release_all(rig);
    rig_wait_idle(rig);
    for (int i = 0; i < 5; i++) {
        rig_check_canceled(req[i]);
        rig_check_disk(rig, i * BYTES, BYTES, i);
        rig_req_free(req[i]);
    }
    rig_end(rig);
}

static void resubmit(RigReq *req)
{
    rig_submit_here(req->opaque);
}

/* The caller tries again at once: its new write prevails. */
static void test_callback_resubmits(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = rig_submit(rig, 0, RIG_WRITE, OFFSET, BYTES, 0xaa);
    g_autoptr(RigReq) again = rig_prepare(rig, 0, RIG_WRITE, OFFSET, BYTES,
                                          0xbb);

    req->then = resubmit;
    req->opaque = again;
    rig_wait(rig_nr_held(rig) == 1);
    rig_cancel(req);
    rig_check_canceled(req);
    rig_settle(rig);
    rig_check_pending(again);
    rig_check_info(rig, 1, 0, 0, 1);
    g_assert_cmpuint(rig_arrived(rig), ==, 1);

    rig_release_all(rig);
    rig_check_result(again, 0);
    rig_check_disk(rig, OFFSET, BYTES, 0xbb);
    rig_end(rig);
}

/*
 * blk_aio_was_canceled() and requests that cannot be taken back
 */

/* The driver's own -ECANCELED, with and without being asked */
static void test_backend_ecanceled(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = rig_submit(rig, 0, v->op, OFFSET, BYTES, 0xaa);

    rig_wait(rig_nr_held(rig) == 1);
    g_assert_true(rig_release_nth(rig, 0, -ECANCELED));
    rig_check_result(req, -ECANCELED);
    rig_end(rig);
}

static void do_test_not_abandonable(Rig *rig, RigOp op)
{
    g_autoptr(RigReq) req = rig_submit(rig, 0, op, 0, RIG_BLOCK, 0xaa);

    rig_wait(rig_nr_held(rig) == 1);
    rig_cancel(req);
    rig_cancel(req);
    rig_settle(rig);
    rig_check_pending(req);
    rig_check_info(rig, 0, 0, 0, 0);
    rig_release_all(rig);
    rig_check_result(req, 0);
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 0);
    rig_end(rig);
}

static void test_never_abandoned(const RigVariant *v)
{
    do_test_not_abandonable(rig_new(v->mode, NULL), v->op);
}

/* Without blk_set_cancel(), requests are what they were. */
static void test_off(const RigVariant *v)
{
    do_test_not_abandonable(rig_new_stock(v->mode), v->op);
}

static void submit_without_medium(void *opaque)
{
    RigReq *req = opaque;

    blk_aio_cancel_async(blk_abort_aio_request(req->rig->blk, req->opaque,
                                               req, -ENOMEDIUM));
}

static void aborted_cb(void *opaque, int ret)
{
    RigReq *req = opaque;

    req->ret = ret;
    qatomic_store_release(&req->calls, req->calls + 1);
}

/* AIOCBs that are not requests of ours are left alone. */
static void test_off_aborted(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = rig_prepare(rig, 0, RIG_READ, 0, RIG_BLOCK, 0);

    req->opaque = aborted_cb;
    rig_run(req->ctx, submit_without_medium, req);
    rig_check_result(req, -ENOMEDIUM);
    rig_end(rig);
}

/*
 * blk_aio_cancel() returns when the callback has run, and the callback does
 * not wait for the storage.
 */
static void test_sync_cancel(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) issued = rig_submit(rig, 0, v->op, 0, BYTES, 0xaa);
    g_autoptr(RigReq) fencing = rig_submit(rig, 0, RIG_WRITE, OFFSET, BYTES,
                                           0xbb);
    g_autoptr(RigReq) waiting = NULL;

    rig_wait(rig_nr_held(rig) == 2);
    blk_aio_cancel(issued->acb);
    rig_check_canceled(issued);
    blk_aio_cancel(fencing->acb);
    rig_check_canceled(fencing);

    waiting = rig_submit(rig, 0, RIG_READ, OFFSET, BYTES, 0);
    rig_settle(rig);
    rig_check_info(rig, 2, 0, 0, 1);
    blk_aio_cancel(waiting->acb);
    rig_check_canceled(waiting);
    rig_check_info(rig, 2, 0, 0, 0);
    g_assert_cmpuint(rig_nr_held(rig), ==, 2);
    rig_end(rig);
}

/* A request that cannot be abandoned: blk_aio_cancel() waits, as ever. */
static void test_sync_cancel_waits(const RigVariant *v)
{
    Rig *rig = rig_new_stock(v->mode);
    g_autoptr(RigReq) req = rig_submit(rig, 0, v->op, 0, BYTES, 0xaa);

    rig_wait(rig_nr_held(rig) == 1);
    rig_release_all_soon(rig);
    blk_aio_cancel(req->acb);
    g_assert_cmpuint(rig_req_calls(req), ==, 1);
    rig_check_result(req, 0);
    rig_end(rig);
}

int main(int argc, char **argv)
{
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    g_test_init(&argc, &argv, NULL);

    rig_add_ops("state/new", test_new);
    rig_add_ops("state/new-goes-on", test_new_goes_on);
    rig_add_ops("state/issued", test_issued);
    rig_add_ops("state/issued-freed", test_issued_freed);
    rig_add_op("state/issued-empty", RIG_READ, test_issued_empty);
    rig_add_op("state/issued-empty", RIG_WRITE, test_issued_empty);
    rig_add_ops("state/issued-fails", test_issued_fails);
    rig_add_ops("state/returned", test_returned);
    rig_add_ops("state/returned-eio", test_returned_eio);
    rig_add_ops("state/returned-ecanceled", test_returned_ecanceled);
    rig_add_op("state/returned-beyond-end", RIG_READ,
               test_returned_beyond_end);
    rig_add_op("state/returned-beyond-end", RIG_WRITE,
               test_returned_beyond_end);
    rig_add_ops("state/done", test_done);
    rig_add_ops("state/done-canceled", test_done_canceled);

    rig_add("buffer/copy", test_buffer_copy);
    rig_add("buffer/read-back", test_buffer_read_back);
    rig_add("buffer/failed-read", test_buffer_failed_read);
    rig_add("buffer/aligned", test_buffer_aligned);

    rig_add_ops("callback/cancels-itself", test_callback_cancels_itself);
    rig_add_ops("callback/cancels-other", test_callback_cancels_other);
    rig_add("callback/cancels-nested", test_callback_cancels_nested);
    rig_add("callback/resubmits", test_callback_resubmits);

    rig_add_ops("not-abandoned/backend-ecanceled", test_backend_ecanceled);
    rig_add_ops("not-abandoned/off", test_off);
    rig_add("not-abandoned/aborted", test_off_aborted);
    rig_add_op("not-abandoned", RIG_IOCTL, test_never_abandoned);

    /* Main loop only: that is where blk_aio_cancel() may be called */
    rig_add_ops_main("sync-cancel/at-once", test_sync_cancel);
    rig_add_ops_main("sync-cancel/waits", test_sync_cancel_waits);

    add_fence_tests();
    add_budget_tests();
    add_damper_tests();
    add_drain_tests();
    add_throttle_tests();
    add_load_tests();
    add_scale_tests();
    add_zoned_tests();
    add_hold_tests();
    add_stats_tests();

    return g_test_run();
}
