/*
 * Jobs at the gate
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
#include "block/blk-cancel-quiesce.h"
#include "block/blk-gate.h"

#define SLEEP_NS    (100 * SCALE_MS)

/* Freed by who comes second: the gate, or the job */
typedef struct GateJob {
    Job *job;
    enum { GATE_JOB_WAITS, GATE_JOB_PASSED, GATE_JOB_LEFT } state; /* atomic */
} GateJob;

static void gate_job_passed(void *opaque)
{
    GateJob *g = opaque;

    if (qatomic_xchg(&g->state, GATE_JOB_PASSED) == GATE_JOB_WAITS) {
        /* It cannot be freed before this returns: that takes the main loop */
        job_enter(g->job);
    } else {
        g_free(g);
    }
}

static void coroutine_fn gate_job_sleep(Job *job)
{
    GateJob *g = g_new(GateJob, 1);

    *g = (GateJob) { .job = job, .state = GATE_JOB_WAITS };
    blk_gate_schedule("the end of a job", gate_job_passed, g);
    while (qatomic_read(&g->state) == GATE_JOB_WAITS &&
           !job_is_cancelled(job)) {
        job_sleep_ns(job, SLEEP_NS);
    }
    if (qatomic_xchg(&g->state, GATE_JOB_LEFT) == GATE_JOB_PASSED) {
        g_free(g);
    }
}

/* These have no filters and BlockBackends, and have been at the gate */
static bool gate_job_is_snapshot(Job *job)
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
static bool gate_job_must_sleep(Job *job)
{
    if (!blk_cancel_any() || gate_job_is_snapshot(job)) {
        return false;
    }
    JOB_LOCK_GUARD();
    return !job->pause_count && !job_is_cancelled_locked(job);
}

void coroutine_fn blk_gate_co_before_end(Job *job)
{
    if (gate_job_must_sleep(job)) {
        gate_job_sleep(job);
    }
}

bool coroutine_fn blk_gate_co_before_drain(Job *job, int64_t *slept_ns)
{
    if (!gate_job_must_sleep(job) ||
        get_clock() - *slept_ns < BLK_CANCEL_OVERDUE_NS) {
        return false;
    }
    gate_job_sleep(job);
    *slept_ns = get_clock();
    return true;
}

void blk_gate_end_job(Job *job, QEMUBHFunc *job_exit)
{
    if (gate_job_is_snapshot(job)) {
        aio_bh_schedule_oneshot(qemu_get_aio_context(), job_exit, job);
    } else {
        blk_gate_schedule("the end of a job", job_exit, job);
    }
}

typedef struct GateJobCancel {
    Job *job;                   /* a reference */
    bool force;
} GateJobCancel;

static void gate_job_cancel_cb(void *opaque)
{
    g_autofree GateJobCancel *c = opaque;

    JOB_LOCK_GUARD();
    /* It may have ended meanwhile */
    if (!job_apply_verb_locked(c->job, JOB_VERB_CANCEL, NULL)) {
        job_cancel_locked(c->job, c->force);
    }
    job_unref_locked(c->job);
}

bool blk_gate_cancel_job_locked(Job *job, bool force)
{
    bool runs = job->co && !job->deferred_to_main_loop &&
                job->status != JOB_STATUS_CONCLUDED;
    GateJobCancel *c;

    if (runs || !blk_cancel_any() || blk_gate_is_idle()) {
        return false;
    }
    job_ref_locked(job);
    c = g_new(GateJobCancel, 1);
    *c = (GateJobCancel) { .job = job, .force = force };
    blk_gate_call("the end of a job", false, gate_job_cancel_cb, c);
    return true;
}
