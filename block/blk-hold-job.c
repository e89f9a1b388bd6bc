/*
 * Jobs that end while disks are held
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A job that has done its work takes its filters and BlockBackends out of the
 * graph, and a mirror drains its source before.  It waits for its turn asleep,
 * as jobs do that have nothing to do: then it is not busy, and whatever drains
 * its nodes meanwhile does not wait with it.
 *
 * Hooks: job.c (its function has returned), block/mirror.c (it drains).
 */

#include "qemu/osdep.h"
#include "qemu/job.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "block/aio.h"
#include "block/blk-cancel-hold.h"
#include "block/blk-hold.h"

#define SLEEP_NS    (100 * SCALE_MS)

/* Freed by who comes second: the holder, or the job */
typedef struct HoldJob {
    Job *job;
    enum { HOLD_JOB_WAITS, HOLD_JOB_PASSED, HOLD_JOB_LEFT } state; /* atomic */
} HoldJob;

static void hold_job_passed(void *opaque)
{
    HoldJob *g = opaque;

    if (qatomic_xchg(&g->state, HOLD_JOB_PASSED) == HOLD_JOB_WAITS) {
        /* It cannot be freed before this returns: that takes the main loop */
        job_enter(g->job);
    } else {
        g_free(g);
    }
}

static void coroutine_fn hold_job_sleep(Job *job)
{
    HoldJob *g = g_new(HoldJob, 1);

    *g = (HoldJob) { .job = job, .state = HOLD_JOB_WAITS };
    blk_hold_schedule("the end of a job", hold_job_passed, g);
    while (qatomic_read(&g->state) == HOLD_JOB_WAITS &&
           !job_is_cancelled(job)) {
        job_sleep_ns(job, SLEEP_NS);
    }
    if (qatomic_xchg(&g->state, HOLD_JOB_LEFT) == HOLD_JOB_PASSED) {
        g_free(g);
    }
}

/* These have no filters and BlockBackends, and hold the disks themselves */
static bool hold_job_is_snapshot(Job *job)
{
    switch (job_type(job)) {
    case JOB_TYPE_SNAPSHOT_LOAD:
    case JOB_TYPE_SNAPSHOT_SAVE:
    case JOB_TYPE_SNAPSHOT_DELETE:
        return true;
    default:
        return false;
    }
}

/* To sleep in somebody's drained section, or in its own, is to sleep on */
static bool hold_job_must_sleep(Job *job)
{
    if (!blk_cancel_any() || hold_job_is_snapshot(job)) {
        return false;
    }
    JOB_LOCK_GUARD();
    return !job->pause_count && !job_is_cancelled_locked(job);
}

void coroutine_fn blk_hold_co_job_ends(Job *job)
{
    if (hold_job_must_sleep(job)) {
        hold_job_sleep(job);
    }
}

bool coroutine_fn blk_hold_co_job_drains(Job *job, int64_t *slept_ns)
{
    if (!hold_job_must_sleep(job) ||
        get_clock() - *slept_ns < NANOSECONDS_PER_SECOND) {
        return false;
    }
    hold_job_sleep(job);
    *slept_ns = get_clock();
    return true;
}

void blk_hold_end_job(Job *job, QEMUBHFunc *job_exit)
{
    if (hold_job_is_snapshot(job)) {
        aio_bh_schedule_oneshot(qemu_get_aio_context(), job_exit, job);
    } else {
        blk_hold_schedule("the end of a job", job_exit, job);
    }
}

typedef struct HoldJobCancel {
    Job *job;                   /* a reference */
    bool force;
} HoldJobCancel;

static void hold_job_cancel_cb(void *opaque)
{
    g_autofree HoldJobCancel *c = opaque;

    JOB_LOCK_GUARD();
    /* It may have ended meanwhile */
    if (!job_apply_verb_locked(c->job, JOB_VERB_CANCEL, NULL)) {
        job_cancel_locked(c->job, c->force);
    }
    job_unref_locked(c->job);
}

bool blk_hold_cancel_job_locked(Job *job, bool force)
{
    bool runs = job->co && !job->deferred_to_main_loop &&
                job->status != JOB_STATUS_CONCLUDED;
    HoldJobCancel *c;

    if (runs || !blk_cancel_any() || blk_hold_is_idle()) {
        return false;
    }
    job_ref_locked(job);
    c = g_new(HoldJobCancel, 1);
    *c = (HoldJobCancel) { .job = job, .force = force };
    blk_hold_call("the end of a job", BLK_HOLD_ASK, hold_job_cancel_cb, c);
    return true;
}
