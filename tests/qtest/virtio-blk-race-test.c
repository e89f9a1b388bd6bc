/*
 * A race test of virtio-blk's CANCEL request
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A guest makes requests and CANCELs available at random, on several queues
 * that several IOThreads serve, on storage that answers at random; resets the
 * device and has it drained now and then; and compares all that it can see
 * with what may be there.
 *
 * What the guest does follows from a seed, round by round; when threads and
 * storage do it, does not.  In the environment:
 *
 *   RACE_SEED        repeat a run that has failed
 *   RACE_ROUND       begin with this round
 *   RACE_CANCELS     requests taken back per test, instead of the default
 *   RACE_SECONDS     go on for so long, per test
 *   RACE_RESET_HELD  0: let the storage answer before the device is reset
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qobject/qdict.h"
#include "standard-headers/linux/virtio_blk.h"
#include "virtio-blk-cancel-lib.h"
#include "gate-patience.h"
#include "virtio-blk-race.h"

#define CANCELS             34000       /* requests taken back, per test */
#define ROUNDS_PER_PHASE    50
#define MAX_REQUESTS        40          /* outstanding, per queue */
#define STEP_NS             2000000     /* of the clock, where it matters */

typedef struct RaceSetup {
    const char *name;
    GuestOptions opts;
    bool clock;                         /* throttled: time has to pass */
} RaceSetup;

static const RaceSetup setups[] = {
    { "split", { .queues = 4, .iothreads = 3 } },
    /* So little bounce buffer that requests wait for it all the time */
    { "packed-tight", { .packed = true, .queues = 4, .iothreads = 2,
                        .device = "'cancel-budget': 65536" } },
    { "throttled", { .queues = 3, .iothreads = 2,
                     .drive = ",throttling.iops-total=20000,"
                              "throttling.bps-write=40000000" }, true },
};

typedef struct Race {
    const RaceSetup *setup;
    Store *store;
    Model *model;
    Guest *guest;
    GRand *rand;                        /* of this round */
    uint32_t stamp;                     /* of the last write */
    StoreMode mode;
    unsigned int round;
} Race;

static uint64_t from_env(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    uint64_t value;

    if (!text || !*text) {
        return otherwise;
    }
    if (qemu_strtou64(text, NULL, 0, &value) < 0) {
        g_error("%s=%s is not a number", name, text);
    }
    return value;
}

static unsigned int dice(Race *race, unsigned int sides)
{
    return g_rand_int_range(race->rand, 0, sides);
}

/* Requests */

static GuestReq make_request(Race *race, unsigned int queue)
{
    static const uint32_t types[] = {
        VIRTIO_BLK_T_IN, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
        VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_OUT,
        VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_FLUSH,
    };
    GuestReq r = {
        .type = types[dice(race, ARRAY_SIZE(types))],
        .queue = queue,
    };

    if (r.type != VIRTIO_BLK_T_FLUSH) {
        r.num = 1 + dice(race, dice(race, 4) ? 4 : RACE_MAX_SECTORS);
        r.sector = dice(race, RACE_SECTORS - r.num + 1);
    }
    switch (r.type) {
    case VIRTIO_BLK_T_OUT:
        r.stamp = ++race->stamp;
        break;
    case VIRTIO_BLK_T_DISCARD:
        r.stamp = RACE_STAMP_DISCARD;
        break;
    case VIRTIO_BLK_T_WRITE_ZEROES:
        r.stamp = RACE_STAMP_ZEROES;
        break;
    }
    return r;
}

static void add_request(Race *race, unsigned int queue)
{
    GuestReq r = make_request(race, queue);
    bool read = r.type == VIRTIO_BLK_T_IN;

    if (!guest_has_room(race->guest, queue) ||
        race->guest->queue[queue].requests >= MAX_REQUESTS) {
        return;
    }
    if (r.num) {
        /* Some reads do not care who writes */
        if (!read || dice(race, 4)) {
            r.locked = model_lock(race->model, r.sector, r.num, !read);
        }
        if (!r.locked && (!read || dice(race, 2))) {
            return;
        }
    }
    guest_add(race->guest, &r);
}

/* One that is outstanding on @queue, or NULL */
static GuestReq *pick(Race *race, unsigned int queue)
{
    GuestQueue *q = &race->guest->queue[queue];
    unsigned int first = dice(race, GUEST_QUEUE_SIZE);

    for (unsigned int i = 0; i < GUEST_QUEUE_SIZE; i++) {
        GuestReq *r = q->owner[(first + i) % GUEST_QUEUE_SIZE];

        if (r && r->type != VBC_T_CANCEL) {
            return r;
        }
    }
    return NULL;
}

static void add_cancel(Race *race, unsigned int queue)
{
    Guest *g = race->guest;
    GuestReq cancel = { .type = VBC_T_CANCEL, .queue = queue };
    GuestReq *target = NULL;

    if (!guest_has_room(g, queue)) {
        return;
    }
    switch (dice(race, 16)) {
    case 0:                     /* of the next request, which is not there */
        cancel.tag = g->next_tag;
        break;
    case 1:                     /* of one that has been, or of another queue */
        cancel.tag = g->next_tag - 1 - dice(race, MIN(g->next_tag, 300));
        target = guest_find(g, queue, cancel.tag);
        break;
    case 2:                     /* malformed */
        target = pick(race, queue);
        cancel.with_data = true;
        cancel.tag = target ? target->tag : 0;
        target = NULL;
        break;
    default:                    /* a good one, or the same again */
        target = pick(race, queue);
        if (!target) {
            return;
        }
        cancel.tag = target->tag;
        break;
    }
    if (target) {
        target->asked = cancel.after_target = true;
    }
    guest_add(g, &cancel);
}

/* One round */

static void new_phase(Race *race)
{
    static const StoreMode modes[] = {
        STORE_MIXED, STORE_MIXED, STORE_MIXED, STORE_FAST, STORE_HUNG,
        STORE_HUNG, STORE_STOPPED,
    };

    race->mode = modes[dice(race, ARRAY_SIZE(modes))];
    store_set_mode(race->store, race->mode);
}

static void add_batch(Race *race)
{
    unsigned int queue = dice(race, race->guest->opts.queues);

    for (unsigned int n = dice(race, 24); n > 0; n--) {
        if (dice(race, 2)) {
            add_request(race, queue);
        } else {
            add_cancel(race, queue);
        }
    }
    guest_kick(race->guest, queue);
}

static void resize(Race *race)
{
    QTestState *qts = race->guest->qts;
    g_autofree char *command =
        g_strdup_printf("{\"execute\": \"block_resize\", \"arguments\":"
                        " {\"device\": \"drv\", \"size\": %d}}",
                        RACE_SECTORS * RACE_SECTOR);

    race->guest->stats.drains++;
    qtest_qmp_send_raw(qts, "%s\n", command);
    add_batch(race);
    gate_patient_qmp(qts, command, qtest_qmp_receive(qts));
}

/* A reset; or what waits for all requests, and the storage must answer */
static void disturb(Race *race)
{
    unsigned int what = dice(race, 3);

    if (what != 0 || !race_reset_held() || dice(race, 2)) {
        store_set_mode(race->store, STORE_DRAIN);
    }
    switch (what) {
    case 0:
        guest_reset(race->guest);
        break;
    case 1:
        guest_stop_cont(race->guest);
        break;
    case 2:
        resize(race);
        break;
    }
    store_set_mode(race->store, race->mode);
}

static void one_round(Race *race, uint32_t seed)
{
    const uint32_t seeds[] = { seed, race->round };

    race->rand = g_rand_new_with_seed_array(seeds, ARRAY_SIZE(seeds));
    if (race->round % ROUNDS_PER_PHASE == 0) {
        new_phase(race);
    }
    add_batch(race);
    guest_reap(race->guest);
    if (race->setup->clock && dice(race, 3) == 0) {
        qtest_clock_step(race->guest->qts, STEP_NS);
    }
    if (dice(race, 32) == 0) {
        guest_wait(race->guest, guest_cancels(race->guest) == 0);
    }
    if (dice(race, 150) == 0) {
        disturb(race);
    }
    g_clear_pointer(&race->rand, g_rand_free);
    race->round++;
}

/* All of it */

static void finish_all(Race *race)
{
    Guest *g = race->guest;
    gint64 end = g_get_monotonic_time() + RACE_PATIENCE_US;

    store_set_mode(race->store, STORE_FAST);
    while (guest_requests(g) + guest_cancels(g)) {
        if (g_get_monotonic_time() > end) {
            race_fail("%u requests are lost", guest_requests(g));
        }
        if (race->setup->clock) {
            qtest_clock_step(g->qts, STEP_NS);
        }
        g_usleep(50);
        guest_reap(g);
    }
    guest_stop_cont(g);
}

/* Every sector, through the device */
static void read_all(Race *race)
{
    for (unsigned int i = 0; i < RACE_SECTORS; i += RACE_MAX_SECTORS) {
        GuestReq r = {
            .type = VIRTIO_BLK_T_IN, .sector = i, .num = RACE_MAX_SECTORS,
        };

        r.locked = model_lock(race->model, r.sector, r.num, false);
        g_assert_true(r.locked);
        guest_add(race->guest, &r);
    }
    guest_kick(race->guest, 0);
    finish_all(race);
}

static void check_worth(Race *race)
{
    const GuestStats *stats = &race->guest->stats;

    g_test_message("%u rounds, %" PRIu64 " requests, %" PRIu64 " CANCELs: %"
                   PRIu64 " cancelled, %" PRIu64 " failed; %u resets, %u "
                   "drains; %u writes landed after they were cancelled",
                   race->round, stats->requests, stats->cancels,
                   stats->canceled, stats->failed, stats->resets,
                   stats->drains, store_late_writes(race->store));
}

static void test_race(const void *opaque)
{
    const RaceSetup *setup = opaque;
    uint32_t seed = from_env("RACE_SEED", g_test_rand_int() & 0x7fffffff);
    uint64_t cancels = from_env("RACE_CANCELS", CANCELS);
    gint64 end = g_get_monotonic_time() +
                 from_env("RACE_SECONDS", 0) * G_USEC_PER_SEC;
    g_autofree char *replay = g_strdup_printf("make check-race SEED=%u TEST=%s",
                                              seed, setup->name);
    Race race = {
        .setup = setup,
        .stamp = RACE_STAMP_FIRST,
        .round = from_env("RACE_ROUND", 0),
    };

    g_test_message("to replay: %s", replay);
    race_set_replay(replay, &race.round);
    race.store = store_new(RACE_SECTORS * RACE_SECTOR, seed, true);
    race.model = model_new();
    race.guest = guest_start(&setup->opts, race.store, race.model);

    while (race.guest->stats.canceled < cancels ||
           g_get_monotonic_time() < end) {
        one_round(&race, seed);
    }
    finish_all(&race);
    read_all(&race);
    check_worth(&race);

    guest_end(race.guest);
    store_free(race.store);
    model_free(race.model);
    race_set_replay(NULL, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned int i = 0; i < ARRAY_SIZE(setups); i++) {
        g_autofree char *path = g_strdup_printf("/virtio-blk-race/%s",
                                                setups[i].name);

        g_test_add_data_func(path, &setups[i], test_race);
    }
    race_add_bounds_tests();
    return g_test_run();
}
