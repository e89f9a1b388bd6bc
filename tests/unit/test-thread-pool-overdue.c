/*
 * Thread pool: threads that are stuck do not count against its size
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <dlfcn.h>
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "block/aio.h"
#include "block/thread-pool.h"
#include "block/thread-pool-overdue.h"
#include "iothread.h"
#include "main-loop-wait.h"

#define POOL_SIZE   16
#define STUCK       60
/* Several times what makes a request overdue */
#define LONG_MS     1000

/* Storage that hangs: requests stay at the gate until it is opened. */
static QemuMutex gate_lock;
static QemuCond gate_opened;
static bool gate_open;              /* under gate_lock */
static int nr_stuck;                /* under gate_lock */

static int nr_done;                 /* atomic */

/* Threads that the host allows, as long as it is not negative; atomic */
static int allowed = -1;
static int nr_refused;              /* atomic */

/* In place of GLib's */
GThread *g_thread_try_new(const gchar *name, GThreadFunc func, gpointer data,
                          GError **error)
{
    GThread *(*real)(const gchar *, GThreadFunc, gpointer, GError **) =
        dlsym(RTLD_NEXT, "g_thread_try_new");

    if (qatomic_read(&allowed) == 0) {
        qatomic_inc(&nr_refused);
        return NULL;
    }
    if (qatomic_read(&allowed) > 0) {
        qatomic_dec(&allowed);
    }
    return real(name, func, data, error);
}

static int hang(void *opaque)
{
    QEMU_LOCK_GUARD(&gate_lock);
    nr_stuck++;
    while (!gate_open) {
        qemu_cond_wait(&gate_opened, &gate_lock);
    }
    nr_stuck--;
    return 0;
}

static int quick(void *opaque)
{
    return 0;
}

static void done(void *opaque, int ret)
{
    bool *flag = opaque;

    g_assert_cmpint(ret, ==, 0);
    qatomic_inc(&nr_done);
    if (flag) {
        *flag = true;
    }
}

static int stuck(void)
{
    QEMU_LOCK_GUARD(&gate_lock);
    return nr_stuck;
}

static void set_gate(bool open)
{
    QEMU_LOCK_GUARD(&gate_lock);
    gate_open = open;
    qemu_cond_broadcast(&gate_opened);
}

static void submit_stuck(int n)
{
    for (int i = 0; i < n; i++) {
        thread_pool_submit_aio(hang, NULL, done, NULL);
    }
}

/* Threads of this process; what is not the pool's does not change. */
static int nr_threads(void)
{
    GDir *dir = g_dir_open("/proc/self/task", 0, NULL);
    int n = 0;

    if (!dir) {
        return 0; /* no such thing on this host: checks less */
    }
    while (g_dir_read_name(dir)) {
        n++;
    }
    g_dir_close(dir);
    return n;
}

static void set_flag(void *opaque)
{
    *(bool *)opaque = true;
}

/* The main loop runs for a while. */
static void let_time_pass(void)
{
    bool over = false;
    QEMUTimer *timer = timer_new_ms(QEMU_CLOCK_REALTIME, set_flag, &over);

    timer_mod(timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + LONG_MS);
    main_loop_wait_for(over);
    timer_free(timer);
}

/* Everything is stuck, a request that comes later is served. */
static void test_goes_on(void)
{
    int threads = nr_threads();

    thread_pool_overdue_enable(true);
    for (int i = 0; i < 2; i++) {
        bool flag = false;

        nr_done = 0;
        set_gate(false);
        submit_stuck(STUCK);
        thread_pool_submit_aio(quick, NULL, done, &flag);
        main_loop_wait_for(flag);
        main_loop_wait_for(stuck() == STUCK);
        g_assert_cmpint(nr_done, ==, 1);

        /* One made up for by itself is enough: no thread for each. */
        for (int j = 0; j < STUCK; j++) {
            flag = false;
            thread_pool_submit_aio(quick, NULL, done, &flag);
            main_loop_wait_for(flag);
        }
        if (threads) {
            g_assert_cmpint(nr_threads(), <=, threads + STUCK + POOL_SIZE);
        }

        /* The pool goes back to its size. */
        set_gate(true);
        main_loop_wait_for(qatomic_read(&nr_done) == 2 * STUCK + 1);
        main_loop_wait_for(nr_threads() <= threads + POOL_SIZE);
    }
    thread_pool_overdue_enable(false);
}

/* Not with cancelling off, nor after it was switched off. */
static void test_off(void)
{
    int threads = nr_threads();
    bool flag = false;

    thread_pool_overdue_enable(true);
    thread_pool_overdue_enable(true);
    thread_pool_overdue_enable(false);
    thread_pool_overdue_enable(false);

    nr_done = 0;
    set_gate(false);
    submit_stuck(STUCK);
    thread_pool_submit_aio(quick, NULL, done, &flag);
    main_loop_wait_for(stuck() == POOL_SIZE);
    let_time_pass();
    g_assert_cmpint(stuck(), ==, POOL_SIZE);
    g_assert_false(flag);

    /* Switched on in the middle: the next request shows it. */
    thread_pool_overdue_enable(true);
    thread_pool_submit_aio(quick, NULL, done, NULL);
    main_loop_wait_for(flag);
    main_loop_wait_for(stuck() == STUCK);
    thread_pool_overdue_enable(false);

    set_gate(true);
    main_loop_wait_for(qatomic_read(&nr_done) == STUCK + 2);
    main_loop_wait_for(nr_threads() <= threads + POOL_SIZE);
}

static void submit_in_thread(void *opaque)
{
    submit_stuck(STUCK);
    qatomic_set((bool *)opaque, true);
}

/* A pool goes while it still has threads too many. */
static void test_end(void)
{
    int threads = nr_threads();
    IOThread *iothread = iothread_new();
    AioContext *ctx = iothread_get_aio_context(iothread);
    bool submitted = false;

    thread_pool_overdue_enable(true);
    aio_context_set_thread_pool_params(ctx, 0, POOL_SIZE, &error_abort);
    nr_done = 0;
    set_gate(false);
    aio_bh_schedule_oneshot(ctx, submit_in_thread, &submitted);
    main_loop_wait_for(qatomic_read(&submitted) && stuck() == STUCK);
    set_gate(true);
    main_loop_wait_for(qatomic_read(&nr_done) == STUCK);
    iothread_join(iothread);
    main_loop_wait_for(nr_threads() <= threads);
    thread_pool_overdue_enable(false);
}

static void submit_quick(void *opaque)
{
    for (int i = 0; i < STUCK; i++) {
        thread_pool_submit_aio(quick, NULL, done, NULL);
    }
    qatomic_set((bool *)opaque, true);
}

/* The host allows no thread at all, then one, then as many as one likes. */
static void test_limit(void)
{
    IOThread *iothread = iothread_new();
    AioContext *ctx = iothread_get_aio_context(iothread);
    int threads = nr_threads();
    bool submitted = false;

    thread_pool_overdue_enable(true);
    nr_done = 0;
    nr_refused = 0;
    qatomic_set(&allowed, 0);
    aio_bh_schedule_oneshot(ctx, submit_quick, &submitted);
    /* It tries again. */
    main_loop_wait_for(qatomic_read(&submitted) &&
                       qatomic_read(&nr_refused) > 2);
    g_assert_cmpint(qatomic_read(&nr_done), ==, 0);

    qatomic_set(&allowed, 1);
    main_loop_wait_for(qatomic_read(&nr_done) == STUCK);
    if (threads) {
        g_assert_cmpint(nr_threads(), <=, threads + 1);
    }

    qatomic_set(&allowed, -1);
    set_gate(false);
    submitted = false;
    aio_bh_schedule_oneshot(ctx, submit_in_thread, &submitted);
    main_loop_wait_for(qatomic_read(&submitted) && stuck() == STUCK);
    set_gate(true);
    main_loop_wait_for(qatomic_read(&nr_done) == 2 * STUCK);
    iothread_join(iothread);
    main_loop_wait_for(nr_threads() < threads);
    thread_pool_overdue_enable(false);
}

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_abort);
    qemu_mutex_init(&gate_lock);
    qemu_cond_init(&gate_opened);
    aio_context_set_thread_pool_params(qemu_get_aio_context(), 0, POOL_SIZE,
                                       &error_abort);

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/thread-pool-overdue/goes-on", test_goes_on);
    g_test_add_func("/thread-pool-overdue/off", test_off);
    g_test_add_func("/thread-pool-overdue/end", test_end);
    g_test_add_func("/thread-pool-overdue/limit", test_limit);
    return g_test_run();
}
