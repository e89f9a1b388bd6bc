/*
 * Requests of a BlockBackend that can be taken back: all that a guest can have
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A virtio-blk device may have 16 virtqueues of 1024 requests, each served by
 * an IOThread of its own.  All of them hang, all are cancelled, the guest asks
 * again for as much, and the storage comes back.  How long that takes is shown
 * by "--verbose"; nothing depends on it.
 *
 * And another disk hangs as well: there is an end to what can be abandoned, and
 * the process lives.
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "blk-cancel-rig.h"

#define QUEUES  16
#define SIZE    1024
#define BLOCKS  (RIG_DISK_SIZE / RIG_BLOCK)

typedef struct Queue {
    /* Set once */
    Rig *rig;
    IOThread *iothread;
    AioContext *ctx;
    unsigned int n;
    unsigned int size;

    /* Owned by the thread of @ctx */
    RigReq *reqs[2][SIZE];      /* of the first and of the second round */
    unsigned int round;

    bool done;                  /* atomic */
} Queue;

typedef struct Scale {
    Rig *rig;
    Queue queue[QUEUES];
} Scale;

/* The next round */
static void queue_submit(void *opaque)
{
    Queue *q = opaque;

    for (unsigned int i = 0; i < q->size; i++) {
        RigOp op = i % 2 ? RIG_READ : RIG_WRITE;
        RigReq *req = rig_prepare(q->rig, 0, op,
                                  (q->n + i) % BLOCKS * RIG_BLOCK, RIG_BLOCK,
                                  0xaa);

        req->ctx = q->ctx;
        rig_submit_here(req);
        q->reqs[q->round][i] = req;
    }
    q->round++;
    qatomic_store_release(&q->done, true);
}

static void queue_cancel_first(void *opaque)
{
    Queue *q = opaque;

    for (unsigned int i = 0; i < q->size; i++) {
        rig_cancel_here(q->reqs[0][i]);
    }
    qatomic_store_release(&q->done, true);
}

static bool scale_is_done(Scale *s)
{
    for (unsigned int i = 0; i < QUEUES; i++) {
        if (!qatomic_load_acquire(&s->queue[i].done)) {
            return false;
        }
    }
    return true;
}

/* Whether all callbacks have run */
static bool scale_has_answers(Scale *s)
{
    for (unsigned int i = 0; i < QUEUES; i++) {
        for (unsigned int j = 0; j < s->queue[i].size; j++) {
            RigReq *second = s->queue[i].reqs[1][j];

            if (!rig_req_calls(s->queue[i].reqs[0][j]) ||
                (second && !rig_req_calls(second))) {
                return false;
            }
        }
    }
    return true;
}

/* Returns: how long it took in all threads, in ms */
static double scale_run(Scale *s, void (*fn)(void *opaque))
{
    gint64 start = g_get_monotonic_time();

    for (unsigned int i = 0; i < QUEUES; i++) {
        qatomic_set(&s->queue[i].done, false);
        aio_bh_schedule_oneshot(s->queue[i].ctx, fn, &s->queue[i]);
    }
    rig_wait(scale_is_done(s));
    return (g_get_monotonic_time() - start) / 1000.0;
}

static Scale *scale_new(unsigned int size)
{
    BlkCancelOptions opts = {
        .budget = QUEUES * SIZE * RIG_BLOCK * 2,
        .damper = QUEUES * SIZE,
        .region = RIG_BLOCK,
    };
    Scale *s = g_new0(Scale, 1);

    blk_cancel_set_machine_budget(2 * opts.budget);
    s->rig = rig_new(RIG_ONE, &opts);
    for (unsigned int i = 0; i < QUEUES; i++) {
        IOThread *iothread = iothread_new();

        s->queue[i] = (Queue) {
            .rig = s->rig,
            .n = i,
            .size = size,
            .iothread = iothread,
            .ctx = iothread_get_aio_context(iothread),
        };
    }
    return s;
}

static void scale_release(Scale *s)
{
    rig_release_all(s->rig);
    rig_wait(rig_info(s->rig).abandoned == 0 && scale_has_answers(s));
}

/* Returns: how many were cancelled */
static unsigned int scale_end(Scale *s)
{
    unsigned int canceled = 0;

    /* The rig's storage answers in the threads of the requests */
    blk_drain(s->rig->blk);
    for (unsigned int i = 0; i < QUEUES; i++) {
        for (unsigned int j = 0; j < s->queue[i].size; j++) {
            RigReq *first = s->queue[i].reqs[0][j];
            RigReq *second = s->queue[i].reqs[1][j];

            canceled += first->canceled;
            g_assert_cmpint(first->ret, ==, first->canceled ? -ECANCELED : 0);
            rig_req_free(first);
            if (second) {
                rig_check_result(second, 0);
                rig_req_free(second);
            }
        }
    }
    rig_end(s->rig);
    for (unsigned int i = 0; i < QUEUES; i++) {
        iothread_join(s->queue[i].iothread);
    }
    blk_cancel_set_machine_budget(BLK_CANCEL_MACHINE_BUDGET);
    g_free(s);
    return canceled;
}

static void test_scale(void)
{
    Scale *s = scale_new(SIZE);
    double submit_ms, cancel_ms, again_ms, end_ms;
    gint64 start;

    submit_ms = scale_run(s, queue_submit);
    rig_wait(rig_nr_held(s->rig) == QUEUES * SIZE);
    cancel_ms = scale_run(s, queue_cancel_first);
    g_assert_cmpuint(rig_info(s->rig).abandoned, ==, QUEUES * SIZE);
    again_ms = scale_run(s, queue_submit);

    start = g_get_monotonic_time();
    scale_release(s);
    end_ms = (g_get_monotonic_time() - start) / 1000.0;

    g_test_message("%u requests in %u threads: submitted in %.0f ms, all "
                   "cancelled in %.0f ms, submitted again in %.0f ms, all "
                   "ended in %.0f ms after the storage was back",
                   QUEUES * SIZE, QUEUES, submit_ms, cancel_ms, again_ms,
                   end_ms);
    g_assert_cmpuint(scale_end(s), ==, QUEUES * SIZE);
}

/* Of coroutines, with two mappings each; or 0 */
static unsigned int host_limit(void)
{
    g_autofree char *contents = NULL;
    const char *end;
    int maps;

    return g_file_get_contents("/proc/sys/vm/max_map_count", &contents, NULL,
                               NULL) &&
           qemu_strtoi(contents, &end, 10, &maps) == 0 ? maps / 2 : 0;
}

static void test_full(void)
{
    unsigned int limit = host_limit();
    unsigned int canceled;
    Scale *s, *other;

    if (!limit || limit > 2 * QUEUES * SIZE) {
        g_test_skip("this host allows more mappings than the test can use");
        return;
    }
    s = scale_new(SIZE);
    other = scale_new(SIZE / 2);
    scale_run(s, queue_submit);
    scale_run(other, queue_submit);
    scale_run(s, queue_cancel_first);
    scale_run(other, queue_cancel_first);

    /* A third of the stacks, at least, is for requests that are not */
    canceled = rig_info(s->rig).abandoned + rig_info(other->rig).abandoned;
    g_assert_cmpuint(canceled, >, limit / 2);
    g_assert_cmpuint(canceled, <, limit / 3 * 2);
    scale_run(s, queue_submit);

    /* Both: to take one down is to change the graph that the other uses */
    scale_release(other);
    scale_release(s);
    g_assert_cmpuint(scale_end(other) + scale_end(s), ==, canceled);
}

void add_scale_tests(void)
{
#ifndef CONFIG_TSAN
    /* ThreadSanitizer knows 8128 coroutines at most */
    g_test_add_func("/blk-cancel/scale/one", test_scale);
    g_test_add_func("/blk-cancel/scale/full", test_full);
#endif
}
