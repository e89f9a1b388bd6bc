/*
 * A rig for tests of abandoned requests: storage that hangs when told to
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The rig is a BlockBackend with cancelling on, on top of a block driver
 * ("test-hold") with its contents in memory.  While holding is on, a request
 * that reaches the driver stops there until the test releases it, and only
 * then moves data; what landed is logged in the order in which it landed.
 *
 * Tests run in the main loop.  They submit and cancel in the main loop or in
 * two IOThreads, see RigMode.
 */

#ifndef TESTS_UNIT_BLK_CANCEL_RIG_H
#define TESTS_UNIT_BLK_CANCEL_RIG_H

#include "qemu/units.h"
#include "block/block_int.h"
#include "block/blk-cancel.h"
#include "system/block-backend.h"
#include "iothread.h"

#define RIG_BLOCK           4096
#define RIG_DISK_SIZE       (1 * MiB)

/* Of memory, for O_DIRECT; larger than what allocators give by themselves */
#define RIG_MEM_ALIGN       (64 * KiB)

/* Content of the disk at start, and of discarded and zeroed ranges */
#define RIG_INITIAL         0x11
#define RIG_DISCARDED       0xdd
#define RIG_ZEROED          0x00

/* What a read's buffer holds before the read */
#define RIG_UNREAD          0xa5

typedef enum RigOp {
    RIG_READ,
    RIG_WRITE,
    RIG_ZEROES,
    RIG_DISCARD,
    RIG_FLUSH,
    RIG_OP__MAX,
    /* Never abandoned: */
    RIG_IOCTL = RIG_OP__MAX,
    RIG_ZONE_REPORT,
    RIG_ZONE_MGMT,
    RIG_ZONE_APPEND,
} RigOp;

/* Where requests are submitted: thread 0 and thread 1 of the rig are ... */
typedef enum RigMode {
    RIG_ONE,            /* both the main loop */
    RIG_TWO,            /* one IOThread each; the first is @blk's home */
    RIG_MODE__MAX,
} RigMode;

/* A request that has reached the driver; on the stack of its coroutine */
typedef struct HeldOp {
    RigOp op;
    int64_t offset;
    int64_t bytes;
    QEMUIOVector *qiov;

    /* Set when it stops, and used to wake it */
    Coroutine *co;
    AioContext *ctx;

    /* Set by rig_release(), from which on no one else touches it */
    int ret;

    QTAILQ_ENTRY(HeldOp) next;
} HeldOp;

/* A request that has landed, or failed */
typedef struct LandedOp {
    RigOp op;
    int64_t offset;
    int64_t bytes;
    int ret;
    uint8_t first;      /* first byte of the range after it */
} LandedOp;

typedef struct Rig {
    /* Set once */
    RigMode mode;
    BlockBackend *blk;
    BlockDriverState *bs;
    IOThread *iothread[2];
    AioContext *ctx[2];

    /* Main loop only: run from the driver's drain callbacks */
    void (*on_drain)(struct Rig *rig);
    bool drain_began;

    QemuMutex lock;
    /* Everything below is protected by @lock */
    bool holding;
    bool zoned;
    int sync_ret;               /* result of requests that are not held */
    uint8_t disk[RIG_DISK_SIZE];
    QTAILQ_HEAD(, HeldOp) held;
    unsigned int nr_held;
    unsigned int nr_active;     /* held, or on their way out */
    unsigned int arrived;       /* ever */
    unsigned int misaligned;    /* reads and writes not fit for O_DIRECT */
    unsigned int registered;    /* those flagged as in a registered buffer */
    GArray *landed;             /* of LandedOp */
} Rig;

typedef struct RigReq RigReq;
struct RigReq {
    Rig *rig;
    AioContext *ctx;
    RigOp op;
    int64_t offset;
    int64_t bytes;
    BdrvRequestFlags flags;
    uint8_t *mem;
    uint8_t *buf;               /* @bytes in @mem, at an odd address */
    struct iovec iov[3];
    QEMUIOVector qiov;
    unsigned int nr_zones;

    /* Owned by @ctx */
    BlockAIOCB *acb;
    bool in_cb;

    /* Set by the callback in @ctx; @calls is atomic and set last */
    int ret;
    bool canceled;
    unsigned int calls;

    /* If not NULL, the callback calls it at its end */
    void (*then)(RigReq *req);
    void *opaque;
};

#define RIG_PATIENCE_US (60 * G_USEC_PER_SEC)

/* Run the main loop until @cond, which is some event's trace. */
#define rig_wait(cond)                                                  \
    do {                                                                \
        int64_t deadline_ = g_get_monotonic_time() + RIG_PATIENCE_US;   \
        while (!(cond)) {                                               \
            g_assert_cmpint(g_get_monotonic_time(), <, deadline_);      \
            rig_poll();                                                 \
        }                                                               \
    } while (0)

void rig_poll(void);

/* Let everything that can run, in all threads, run. */
void rig_settle(Rig *rig);

/* What has been scheduled in thread @n when this is called, runs. */
void rig_settle_thread(Rig *rig, int n);

/* Call @fn in @ctx, outside a coroutine or (_co) inside one, and wait. */
void rig_run(AioContext *ctx, void (*fn)(void *opaque), void *opaque);
void rig_run_co(AioContext *ctx, void (*fn)(void *opaque), void *opaque);

/* @opts may be NULL for the defaults.  Starts with holding on. */
Rig *rig_new(RigMode mode, const BlkCancelOptions *opts);
Rig *rig_new_zoned(RigMode mode);

/* A rig whose @blk has never seen blk_set_cancel() */
Rig *rig_new_stock(RigMode mode);

/*
 * Release all, wait until nothing is left, check that the counters agree,
 * then take everything down.
 */
void rig_end(Rig *rig);

/* What rig_end() does after @blk has gone. */
void rig_free(Rig *rig);

/* A node of the driver, with its one reference; see blk-cancel-hold.c */
BlockDriverState *hold_new_node(Rig *rig);

void rig_set_holding(Rig *rig, bool holding);

/* With holding off: what the driver returns at once. */
void rig_set_sync_ret(Rig *rig, int ret);

unsigned int rig_nr_held(Rig *rig);
unsigned int rig_nr_active(Rig *rig);
unsigned int rig_arrived(Rig *rig);
unsigned int rig_nr_landed(Rig *rig);
LandedOp rig_landed(Rig *rig, unsigned int i);

/* Whether a request of this kind at @offset is held */
bool rig_holds(Rig *rig, RigOp op, int64_t offset);

/* Let the oldest such request go on, or fail with @ret. */
void rig_release_ret(Rig *rig, RigOp op, int64_t offset, int ret);
void rig_release(Rig *rig, RigOp op, int64_t offset);

/* Let the @n-th oldest go on; returns false if there are not so many. */
bool rig_release_nth(Rig *rig, unsigned int n, int ret);

/* From now on, hold nothing. */
void rig_release_all(Rig *rig);

/*
 * The same from the main loop: while something waits there for the storage, a
 * drained section for one, and not before.
 */
void rig_release_all_soon(Rig *rig);

/* Check that all @bytes at @offset have the value @pattern. */
void rig_check_disk(Rig *rig, int64_t offset, int64_t bytes, uint8_t pattern);

BlkCancelInfo rig_info(Rig *rig);

/* Check the number of abandoned requests and of waiters of all kinds. */
#define rig_check_info(rig, abandoned_, drained_, budget_, fence_)       \
    do {                                                                \
        BlkCancelInfo info_ = rig_info(rig);                            \
        g_assert_cmpuint(info_.abandoned, ==, abandoned_);                \
        g_assert_cmpuint(info_.waiting_drained, ==, drained_);          \
        g_assert_cmpuint(info_.waiting_budget, ==, budget_);            \
        g_assert_cmpuint(info_.waiting_fence, ==, fence_);              \
    } while (0)

/* Wait until nothing is abandoned, waiting or charged any more. */
void rig_wait_idle(Rig *rig);

/* A request for thread @n that is not submitted yet; writes have @pattern. */
RigReq *rig_prepare(Rig *rig, int n, RigOp op, int64_t offset, int64_t bytes,
                    uint8_t pattern);

/* Submit in the current thread, which must be the request's own. */
void rig_submit_here(RigReq *req);

/* Submit from its own thread, outside a coroutine. */
void rig_submit_prepared(RigReq *req);

/* Both in one */
RigReq *rig_submit(Rig *rig, int n, RigOp op, int64_t offset, int64_t bytes,
                   uint8_t pattern);

/* The same of one block, the @n-th of the disk; its pattern is 0xa0 + @n */
RigReq *rig_submit_block(Rig *rig, int thread, RigOp op, int n);

/* Cancel from the request's own thread; the callback may have run then. */
void rig_cancel(RigReq *req);
void rig_cancel_here(RigReq *req);

unsigned int rig_req_calls(RigReq *req);

/* The callback has run once, inside a cancel. */
void rig_check_canceled(RigReq *req);

/* The callback has not run. */
void rig_check_pending(RigReq *req);

/* Wait for the callback; it has run once, with a result of its own. */
void rig_check_result(RigReq *req, int ret);

/* Check all of a request's buffer. */
void rig_check_buf(RigReq *req, uint8_t pattern);

/* Check that its callback has run exactly once, and free it. */
void rig_req_free(RigReq *req);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(RigReq, rig_req_free);

const char *rig_op_name(RigOp op);

/* A test with operations and a mode; the same function serves all. */
typedef struct RigVariant {
    RigMode mode;
    RigOp op;
    RigOp newer;
} RigVariant;

/* Add /blk-cancel/@topic[/variant] in every mode, */
void rig_add(const char *topic, void (*fn)(const RigVariant *v));
/* for every operation, */
void rig_add_ops(const char *topic, void (*fn)(const RigVariant *v));
/* for every operation in the main loop only, */
void rig_add_ops_main(const char *topic, void (*fn)(const RigVariant *v));
/* or for one or two given ones. */
void rig_add_op(const char *topic, RigOp op,
                void (*fn)(const RigVariant *v));
void rig_add_pair(const char *topic, RigOp op, RigOp newer,
                  void (*fn)(const RigVariant *v));

/* The files of this test program */
void add_hold_tests(void);
void add_fence_tests(void);
void add_budget_tests(void);
void add_damper_tests(void);
void add_drain_tests(void);
void add_throttle_tests(void);
void add_load_tests(void);
void add_scale_tests(void);
void add_zoned_tests(void);
void add_stats_tests(void);

#endif /* TESTS_UNIT_BLK_CANCEL_RIG_H */
