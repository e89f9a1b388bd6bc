/*
 * An NBD client below a BlockBackend with cancelling on: abandoned requests do
 * not use up its connection
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The server does not answer in the upper half of its disk. The damper does not
 * matter to the lower one, which is far away.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "block/blk-cancel.h"
#include "system/block-backend.h"
#include "main-loop-wait.h"
#include "nbd-test-server.h"

#define SIZE        (64 * MiB)
#define HALF        (SIZE / 2)
#define BLOCK       4096
#define MANY        40      /* more than a client has under way otherwise */
#define FEW         16      /* as many as it has */

/* A request; used by the main loop only */
typedef struct Request {
    uint8_t buf[BLOCK];
    QEMUIOVector qiov;
    BlockAIOCB *acb;
    bool done;
    int ret;
} Request;

typedef struct Rig {
    NBDTestServer *server;
    BlockDriverState *bs;
    BlockBackend *blk;
    Request hung[MANY];
} Rig;

static void request_done(void *opaque, int ret)
{
    Request *req = opaque;

    req->ret = ret;
    req->done = true;
}

static void submit(Rig *rig, Request *req, uint64_t from, bool write)
{
    *req = (Request) { .ret = -EINPROGRESS };
    qemu_iovec_init_buf(&req->qiov, req->buf, sizeof(req->buf));
    req->acb = write ?
        blk_aio_pwritev(rig->blk, from, &req->qiov, 0, request_done, req) :
        blk_aio_preadv(rig->blk, from, &req->qiov, 0, request_done, req);
}

static void begin(Rig *rig, bool cancel)
{
    rig->server = nbd_test_server_new(SIZE, HALF);
    rig->bs = nbd_test_server_open(rig->server);
    rig->blk = blk_new_with_bs(rig->bs, BLK_PERM_ALL, BLK_PERM_ALL,
                               &error_abort);
    if (cancel) {
        const BlkCancelOptions opts = {
            .budget = 16 * MiB, .damper = 1, .region = BLOCK,
        };

        blk_set_cancel(rig->blk, &opts, &error_abort);
    }
}

static void end(Rig *rig)
{
    blk_drain(rig->blk);
    blk_set_cancel(rig->blk, NULL, &error_abort);
    blk_unref(rig->blk);
    bdrv_unref(rig->bs);
    nbd_test_server_free(rig->server);
}

/* Half of the requests write. */
static void hang(Rig *rig, unsigned int num)
{
    for (unsigned int i = 0; i < num; i++) {
        submit(rig, &rig->hung[i], HALF + i * BLOCK, i % 2);
    }
}

static void answer(Rig *rig, unsigned int from, unsigned int to)
{
    for (unsigned int i = from; i < to; i++) {
        nbd_test_server_reply(rig->server, HALF + i * BLOCK);
    }
}

static void check_works(Rig *rig)
{
    for (unsigned int i = 0; i < 2 * FEW; i++) {
        Request req;

        submit(rig, &req, i * BLOCK, i % 2);
        main_loop_wait_for(req.done);
        g_assert_cmpint(req.ret, ==, 0);
    }
}

/* Cancelled or not, what hangs leaves the other half of the disk alone. */
static void test_half(const void *cancel)
{
    g_autofree Rig *rig = g_new0(Rig, 1);
    unsigned int i;

    begin(rig, true);
    hang(rig, MANY);
    main_loop_wait_for(nbd_test_server_held(rig->server) == MANY);
    for (i = 0; cancel && i < MANY; i++) {
        blk_aio_cancel_async(rig->hung[i].acb);
        g_assert_true(rig->hung[i].done);
    }
    check_works(rig);

    /* Whatever the order of the answers */
    answer(rig, MANY / 2, MANY);
    check_works(rig);
    answer(rig, 0, MANY / 2);
    for (i = 0; i < MANY; i++) {
        main_loop_wait_for(rig->hung[i].done);
        g_assert_cmpint(rig->hung[i].ret, ==, cancel ? -ECANCELED : 0);
    }
    check_works(rig);
    end(rig);
}

/* Otherwise no more than a few are sent at a time, as ever. */
static void test_off(void)
{
    g_autofree Rig *rig = g_new0(Rig, 1);
    Request req;

    begin(rig, false);
    hang(rig, MANY);
    main_loop_wait_for(nbd_test_server_held(rig->server) == FEW);
    submit(rig, &req, 0, false);
    for (unsigned int i = 0; i < MANY; i++) {
        g_assert_true(!req.done || i > MANY - FEW);
        main_loop_wait_for(nbd_test_server_held(rig->server) ==
                           MIN(FEW, MANY - i));
        answer(rig, i, i + 1);
        main_loop_wait_for(rig->hung[i].done);
    }
    main_loop_wait_for(req.done);
    end(rig);
}

int main(int argc, char **argv)
{
    module_call_init(MODULE_INIT_QOM);
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    g_test_init(&argc, &argv, NULL);

    g_test_add_data_func("/blk-cancel-nbd/half/in-flight", NULL, test_half);
    g_test_add_data_func("/blk-cancel-nbd/half/cancelled", "", test_half);
    g_test_add_func("/blk-cancel-nbd/off", test_off);
    return g_test_run();
}
