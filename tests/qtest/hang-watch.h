/*
 * What must not wait for storage that hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_QTEST_HANG_WATCH_H
#define TESTS_QTEST_HANG_WATCH_H

typedef struct HangWatch {
    /* Set once */
    gint64 end;
    void (*let_go)(void *opaque);
    void *opaque;
    GThread *thread;

    GMutex lock;
    GCond over;
    bool watching;              /* protected by @lock */
    bool waited;                /* protected by @lock */
} HangWatch;

static inline void *hang_watch_thread(void *opaque)
{
    HangWatch *w = opaque;

    g_mutex_lock(&w->lock);
    while (w->watching && !w->waited) {
        if (!g_cond_wait_until(&w->over, &w->lock, w->end)) {
            w->waited = true;
            w->let_go(w->opaque);
        }
    }
    g_mutex_unlock(&w->lock);
    return NULL;
}

/*
 * What comes between these must not wait for storage that hangs.  If it takes
 * longer than @patience_us, @let_go is called, in another thread, to end that;
 * and hang_watch_end() fails.
 */
static inline HangWatch *hang_watch_begin(gint64 patience_us,
                                          void (*let_go)(void *opaque),
                                          void *opaque)
{
    HangWatch *w = g_new0(HangWatch, 1);

    w->end = g_get_monotonic_time() + patience_us;
    w->let_go = let_go;
    w->opaque = opaque;
    w->watching = true;
    g_mutex_init(&w->lock);
    g_cond_init(&w->over);
    w->thread = g_thread_new("watch", hang_watch_thread, w);
    return w;
}

static inline void hang_watch_end(HangWatch *w)
{
    g_mutex_lock(&w->lock);
    w->watching = false;
    g_cond_signal(&w->over);
    g_mutex_unlock(&w->lock);
    g_thread_join(w->thread);
    g_assert_false(w->waited);
    g_cond_clear(&w->over);
    g_mutex_clear(&w->lock);
    g_free(w);
}

#endif
