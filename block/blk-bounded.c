/*
 * Blocking calls of a library, made with the BQL held, that need not return
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "block/blk-bounded.h"

static bool bounded_is_on; /* atomic */

bool blk_bounded_is_on(void)
{
    return qatomic_read(&bounded_is_on) || thread_pool_overdue_is_on();
}

void blk_bounded_switch_on(void)
{
    qatomic_set(&bounded_is_on, true);
}

/* Freed by the last of its thread and who waits for it */
typedef struct BoundedCall {
    /* Set once */
    int (*func)(void *opaque);
    void (*late)(void *opaque, int ret);
    void *opaque;
    QemuSemaphore ended;

    QemuMutex lock;
    /* Protected by lock */
    bool done;
    bool expired;
    int ret;
} BoundedCall;

static void bounded_free(BoundedCall *call)
{
    qemu_sem_destroy(&call->ended);
    qemu_mutex_destroy(&call->lock);
    g_free(call);
}

static void *bounded_thread(void *opaque)
{
    BoundedCall *call = opaque;
    int ret = call->func(call->opaque);

    WITH_QEMU_LOCK_GUARD(&call->lock) {
        call->ret = ret;
        call->done = true;
        if (!call->expired) {
            /* Whoever waits frees it, but needs the lock for that. */
            qemu_sem_post(&call->ended);
            return NULL;
        }
    }
    call->late(call->opaque, ret);
    bounded_free(call);
    return NULL;
}

int blk_bounded_call(int (*func)(void *opaque),
                     void (*late)(void *opaque, int ret), void *opaque, int ms,
                     bool *expired)
{
    BoundedCall *call;
    int ret;

    *expired = false;
    if (!blk_bounded_is_on()) {
        return func(opaque);
    }
    call = g_new0(BoundedCall, 1);
    *call = (BoundedCall) { .func = func, .late = late, .opaque = opaque };
    qemu_mutex_init(&call->lock);
    qemu_sem_init(&call->ended, 0);
    if (!thread_pool_try_thread("bounded", bounded_thread, call)) {
        bounded_free(call);
        return func(opaque);
    }
    qemu_sem_timedwait(&call->ended, ms);
    WITH_QEMU_LOCK_GUARD(&call->lock) {
        if (!call->done) {
            call->expired = true;
            *expired = true;
            return -ETIMEDOUT;
        }
        ret = call->ret;
    }
    bounded_free(call);
    return ret;
}
