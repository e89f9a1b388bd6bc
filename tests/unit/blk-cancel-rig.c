/*
 * A rig for tests of abandoned requests: threads, requests, set-up and checks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See the header.  Nothing here knows how cancelling is done.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "blk-cancel-rig.h"

/*
 * Threads
 */

void rig_poll(void)
{
    if (!aio_poll(qemu_get_aio_context(), false)) {
        g_usleep(50);
    }
}

typedef struct RigCall {
    void (*fn)(void *opaque);
    void *opaque;
    bool in_coroutine;

    /* Not a QemuEvent: it may still be woken up when it is used no more */
    QemuSemaphore done;
} RigCall;

static void coroutine_fn rig_call_co(void *opaque)
{
    RigCall *call = opaque;

    call->fn(call->opaque);
}

static void rig_call_bh(void *opaque)
{
    RigCall *call = opaque;

    if (call->in_coroutine) {
        qemu_coroutine_enter(qemu_coroutine_create(rig_call_co, call));
    } else {
        call->fn(call->opaque);
    }
    qemu_sem_post(&call->done);
}

static void rig_call(AioContext *ctx, void (*fn)(void *), void *opaque,
                     bool in_coroutine)
{
    RigCall call = {
        .fn = fn,
        .opaque = opaque,
        .in_coroutine = in_coroutine,
    };

    qemu_sem_init(&call.done, 0);
    if (ctx == qemu_get_current_aio_context()) {
        rig_call_bh(&call);
    } else {
        aio_bh_schedule_oneshot(ctx, rig_call_bh, &call);
    }
    qemu_sem_wait(&call.done);
    qemu_sem_destroy(&call.done);
}

void rig_run(AioContext *ctx, void (*fn)(void *opaque), void *opaque)
{
    rig_call(ctx, fn, opaque, false);
}

void rig_run_co(AioContext *ctx, void (*fn)(void *opaque), void *opaque)
{
    rig_call(ctx, fn, opaque, true);
}

static void rig_nothing(void *opaque)
{
}

void rig_settle_thread(Rig *rig, int n)
{
    rig_run(rig->ctx[n], rig_nothing, NULL);
}

void rig_settle(Rig *rig)
{
    for (int round = 0; round < 4; round++) {
        while (aio_poll(qemu_get_aio_context(), false)) {
            /* go on */
        }
        rig_settle_thread(rig, 0);
        rig_settle_thread(rig, 1);
    }
}

/*
 * The rig itself
 */

static Rig *rig_new_common(RigMode mode, bool zoned)
{
    Rig *rig = g_new0(Rig, 1);

    rig->mode = mode;
    rig->holding = true;
    rig->zoned = zoned;
    qemu_mutex_init(&rig->lock);
    QTAILQ_INIT(&rig->held);
    memset(rig->disk, RIG_INITIAL, RIG_DISK_SIZE);
    rig->landed = g_array_new(false, false, sizeof(LandedOp));

    rig->bs = hold_new_node(rig);
    rig->blk = blk_new(qemu_get_aio_context(), BLK_PERM_ALL, BLK_PERM_ALL);
    blk_insert_bs(rig->blk, rig->bs, &error_abort);
    blk_set_enable_write_cache(rig->blk, true);
    /* The BlockBackend's reference is the only one */
    bdrv_unref(rig->bs);

    for (int i = 0; i < 2; i++) {
        if (mode == RIG_TWO) {
            rig->iothread[i] = iothread_new();
            rig->ctx[i] = iothread_get_aio_context(rig->iothread[i]);
        } else {
            rig->ctx[i] = qemu_get_aio_context();
        }
    }
    blk_set_allow_aio_context_change(rig->blk, true);
    if (mode == RIG_TWO) {
        blk_set_aio_context(rig->blk, rig->ctx[0], &error_abort);
    }
    return rig;
}

static void rig_cancel_on(Rig *rig, const BlkCancelOptions *opts)
{
    const BlkCancelOptions defaults = {
        .budget = BLK_CANCEL_DEFAULT_BUDGET,
        .damper = 100, .region = RIG_BLOCK,
    };

    g_assert_true(blk_set_cancel(rig->blk, opts ?: &defaults, &error_abort));
}

Rig *rig_new(RigMode mode, const BlkCancelOptions *opts)
{
    Rig *rig = rig_new_common(mode, false);

    rig_cancel_on(rig, opts);
    return rig;
}

Rig *rig_new_zoned(RigMode mode)
{
    Rig *rig = rig_new_common(mode, true);

    rig_cancel_on(rig, NULL);
    return rig;
}

Rig *rig_new_stock(RigMode mode)
{
    return rig_new_common(mode, false);
}

void rig_free(Rig *rig)
{
    /* A drain may have scheduled something, see rig_release_all_soon() */
    while (aio_poll(qemu_get_aio_context(), false)) {
        /* go on */
    }
    for (int i = 0; i < 2; i++) {
        if (rig->iothread[i]) {
            iothread_join(rig->iothread[i]);
        }
    }
    g_assert_true(QTAILQ_EMPTY(&rig->held));
    g_assert_cmpuint(rig->nr_active, ==, 0);
    g_assert_cmpuint(rig->arrived, ==, rig->landed->len);
    g_array_free(rig->landed, true);
    qemu_mutex_destroy(&rig->lock);
    g_free(rig);
}

void rig_end(Rig *rig)
{
    rig->on_drain = NULL;
    rig_release_all(rig);
    rig_wait_idle(rig);

    /* This would never return if the in-flight counters were wrong */
    blk_drain(rig->blk);
    g_assert_cmpuint(qatomic_load_acquire(&rig->bs->in_flight), ==, 0);

    blk_set_cancel(rig->blk, NULL, &error_abort);
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 0);
    blk_set_aio_context(rig->blk, qemu_get_aio_context(), &error_abort);
    blk_unref(rig->blk);
    rig_free(rig);
}

BlkCancelInfo rig_info(Rig *rig)
{
    BlkCancelInfo info;

    /* Every field must be set */
    memset(&info, 0xff, sizeof(info));
    blk_cancel_query(rig->blk, &info);
    return info;
}

static bool rig_idle(Rig *rig)
{
    BlkCancelInfo info = rig_info(rig);

    return !info.abandoned && !info.budget_used && !info.waiting_drained &&
           !info.waiting_budget && !info.waiting_fence && !info.oldest_ns &&
           !rig_nr_active(rig);
}

void rig_wait_idle(Rig *rig)
{
    rig_wait(rig_idle(rig));
}

/*
 * Requests
 */

RigReq *rig_prepare(Rig *rig, int n, RigOp op, int64_t offset, int64_t bytes,
                    uint8_t pattern)
{
    RigReq *req = g_new0(RigReq, 1);

    g_assert_cmpint(offset + bytes, <=, RIG_DISK_SIZE);
    req->rig = rig;
    req->ctx = rig->ctx[n];
    req->op = op;
    req->offset = offset;
    req->bytes = bytes;

    /* A buffer that is not fit for O_DIRECT, in three parts */
    req->mem = g_malloc(bytes + 16);
    req->buf = req->mem + 1;
    req->iov[0] = (struct iovec) { req->buf, bytes / 3 };
    req->iov[1] = (struct iovec) { req->buf + bytes / 3, bytes / 2 };
    req->iov[2] = (struct iovec) { req->buf + bytes / 3 + bytes / 2,
                                   bytes - bytes / 3 - bytes / 2 };
    qemu_iovec_init_external(&req->qiov, req->iov, 3);
    memset(req->buf, op == RIG_READ ? RIG_UNREAD : pattern, bytes);
    return req;
}

static void rig_req_cb(void *opaque, int ret)
{
    RigReq *req = opaque;

    g_assert_nonnull(req->acb);
    g_assert_true(qemu_get_current_aio_context() == req->ctx);
    req->ret = ret;
    req->canceled = blk_aio_was_canceled(req->acb);
    req->in_cb = true;
    if (req->then) {
        req->then(req);
    }
    req->in_cb = false;
    req->acb = NULL;
    qatomic_store_release(&req->calls, req->calls + 1);
}

void rig_submit_here(RigReq *req)
{
    BlockBackend *blk = req->rig->blk;

    switch (req->op) {
    case RIG_READ:
        req->acb = blk_aio_preadv(blk, req->offset, &req->qiov, req->flags,
                                  rig_req_cb, req);
        break;
    case RIG_WRITE:
        req->acb = blk_aio_pwritev(blk, req->offset, &req->qiov, req->flags,
                                   rig_req_cb, req);
        break;
    case RIG_ZEROES:
        req->acb = blk_aio_pwrite_zeroes(blk, req->offset, req->bytes,
                                         req->flags, rig_req_cb, req);
        break;
    case RIG_DISCARD:
        req->acb = blk_aio_pdiscard(blk, req->offset, req->bytes,
                                    rig_req_cb, req);
        break;
    case RIG_FLUSH:
        req->acb = blk_aio_flush(blk, rig_req_cb, req);
        break;
    case RIG_IOCTL:
        req->acb = blk_aio_ioctl(blk, req->offset, req->buf, rig_req_cb, req);
        break;
    case RIG_ZONE_REPORT:
        req->acb = blk_aio_zone_report(blk, req->offset, &req->nr_zones, NULL,
                                       rig_req_cb, req);
        break;
    case RIG_ZONE_MGMT:
        req->acb = blk_aio_zone_mgmt(blk, BLK_ZO_RESET, req->offset,
                                     req->bytes, rig_req_cb, req);
        break;
    case RIG_ZONE_APPEND:
        req->acb = blk_aio_zone_append(blk, &req->offset, &req->qiov, 0,
                                       rig_req_cb, req);
        break;
    default:
        g_assert_not_reached();
    }
    g_assert_nonnull(req->acb);
}

static void rig_submit_fn(void *opaque)
{
    rig_submit_here(opaque);
}

void rig_submit_prepared(RigReq *req)
{
    rig_run(req->ctx, rig_submit_fn, req);
}

RigReq *rig_submit(Rig *rig, int n, RigOp op, int64_t offset, int64_t bytes,
                   uint8_t pattern)
{
    RigReq *req = rig_prepare(rig, n, op, offset, bytes, pattern);

    rig_submit_prepared(req);
    return req;
}

void rig_cancel_here(RigReq *req)
{
    g_assert_nonnull(req->acb);
    blk_aio_cancel_async(req->acb);
}

static void rig_cancel_fn(void *opaque)
{
    rig_cancel_here(opaque);
}

RigReq *rig_submit_block(Rig *rig, int thread, RigOp op, int n)
{
    return rig_submit(rig, thread, op, n * RIG_BLOCK, RIG_BLOCK, 0xa0 + n);
}

void rig_cancel(RigReq *req)
{
    rig_run(req->ctx, rig_cancel_fn, req);
}

unsigned int rig_req_calls(RigReq *req)
{
    return qatomic_load_acquire(&req->calls);
}

void rig_check_canceled(RigReq *req)
{
    g_assert_cmpuint(rig_req_calls(req), ==, 1);
    g_assert_cmpint(req->ret, ==, -ECANCELED);
    g_assert_true(req->canceled);
}

void rig_check_pending(RigReq *req)
{
    g_assert_cmpuint(rig_req_calls(req), ==, 0);
}

void rig_check_result(RigReq *req, int ret)
{
    rig_wait(rig_req_calls(req));
    g_assert_cmpuint(rig_req_calls(req), ==, 1);
    g_assert_cmpint(req->ret, ==, ret);
    g_assert_false(req->canceled);
}

void rig_check_buf(RigReq *req, uint8_t pattern)
{
    for (int64_t i = 0; i < req->bytes; i++) {
        g_assert_cmphex(req->buf[i], ==, pattern);
    }
}

void rig_req_free(RigReq *req)
{
    g_assert_cmpuint(rig_req_calls(req), ==, 1);
    g_free(req->mem);
    g_free(req);
}

/*
 * Tests
 */

const char *rig_op_name(RigOp op)
{
    static const char *const names[] = {
        [RIG_READ] = "read",
        [RIG_WRITE] = "write",
        [RIG_ZEROES] = "zeroes",
        [RIG_DISCARD] = "discard",
        [RIG_FLUSH] = "flush",
        [RIG_IOCTL] = "ioctl",
        [RIG_ZONE_REPORT] = "zone-report",
        [RIG_ZONE_MGMT] = "zone-mgmt",
        [RIG_ZONE_APPEND] = "zone-append",
    };

    return names[op];
}

static void rig_add_variant(const char *topic, const char *variant,
                            RigMode mode, RigOp op, RigOp newer,
                            void (*fn)(const RigVariant *v))
{
    static const char *const modes[] = {
        [RIG_ONE] = "one",
        [RIG_TWO] = "two",
    };
    g_autofree char *path = g_strdup_printf("/blk-cancel/%s/%s%s", topic,
                                            variant, modes[mode]);
    static RigVariant variants[1000];
    static unsigned int nr_variants;
    RigVariant *v = &variants[nr_variants++];

    g_assert_cmpuint(nr_variants, <=, ARRAY_SIZE(variants));
    *v = (RigVariant) { mode, op, newer };
    g_test_add_data_func(path, v, (GTestDataFunc)fn);
}

static void rig_add_modes(const char *topic, const char *variant,
                          RigOp op, RigOp newer,
                          void (*fn)(const RigVariant *v))
{
    for (RigMode mode = 0; mode < RIG_MODE__MAX; mode++) {
        rig_add_variant(topic, variant, mode, op, newer, fn);
    }
}

void rig_add(const char *topic, void (*fn)(const RigVariant *v))
{
    rig_add_modes(topic, "", RIG_READ, RIG_READ, fn);
}

void rig_add_op(const char *topic, RigOp op, void (*fn)(const RigVariant *v))
{
    g_autofree char *variant = g_strdup_printf("%s/", rig_op_name(op));

    rig_add_modes(topic, variant, op, op, fn);
}

void rig_add_ops(const char *topic, void (*fn)(const RigVariant *v))
{
    for (RigOp op = 0; op < RIG_OP__MAX; op++) {
        rig_add_op(topic, op, fn);
    }
}

void rig_add_ops_main(const char *topic, void (*fn)(const RigVariant *v))
{
    for (RigOp op = 0; op < RIG_OP__MAX; op++) {
        g_autofree char *variant = g_strdup_printf("%s/", rig_op_name(op));

        rig_add_variant(topic, variant, RIG_ONE, op, op, fn);
    }
}

void rig_add_pair(const char *topic, RigOp op, RigOp newer,
                  void (*fn)(const RigVariant *v))
{
    g_autofree char *variant = g_strdup_printf("%s-%s/", rig_op_name(op),
                                               rig_op_name(newer));

    rig_add_modes(topic, variant, op, newer, fn);
}
