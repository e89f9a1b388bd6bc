/*
 * The race tests of virtio-blk's CANCEL request: what a sector may hold
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each write has a stamp of its own, which fills all of its sectors.  For each
 * sector the model keeps the stamps that a read may find: when they may have
 * come, and when they must have gone.
 *
 * A write that succeeds leaves only its own.  One that was cancelled, or
 * failed, adds its own: which one it is stays open until a read tells.  What
 * the read tells has been so since the last writer's request was used.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "virtio-blk-race.h"

#define ALIVE UINT64_MAX

typedef struct Content {
    uint32_t stamp;
    uint64_t gone;              /* no read that starts later may find it */
} Content;

typedef struct Sector {
    bool writer;
    unsigned int readers;
    uint64_t settled;           /* when the last writer's request was used */
    GArray *may;                /* of Content */
} Sector;

struct Model {
    uint64_t now;
    Sector sector[RACE_SECTORS];
};

/* Failing */

static const char *replay_text;
static const unsigned int *replay_round;

static void print_replay(void *opaque)
{
    fprintf(stderr, "# in round %u; to replay: %s\n", *replay_round,
            replay_text);
}

void race_set_replay(const char *text, const unsigned int *round)
{
    replay_text = text;
    replay_round = round;
    if (text) {
        qtest_add_abrt_handler(print_replay, &replay_text);
    } else {
        qtest_remove_abrt_handler(&replay_text);
    }
}

void race_fail(const char *fmt, ...)
{
    va_list ap;
    g_autofree char *text = NULL;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    /* Not g_error(): it ends in SIGTRAP, for which libqtest has no handler */
    g_assertion_message(NULL, __FILE__, __LINE__, __func__, text);
    abort();
}

/* Contents */

static uint64_t word_at(uint64_t sector, unsigned int i, uint32_t stamp)
{
    return stamp == RACE_STAMP_ZEROES ? 0
           : cpu_to_le64((uint64_t)stamp << 32 | sector << 8 | i);
}

void race_fill(uint8_t *buf, uint64_t sector, unsigned int num, uint32_t stamp)
{
    for (unsigned int s = 0; s < num; s++) {
        uint64_t *word = (uint64_t *)(buf + s * RACE_SECTOR);

        for (unsigned int i = 0; i < RACE_SECTOR / 8; i++) {
            word[i] = word_at(sector + s, i, stamp);
        }
    }
}

bool race_stamp_of(const uint8_t *buf, uint64_t sector, uint32_t *stamp)
{
    const uint64_t *word = (const uint64_t *)buf;

    *stamp = le64_to_cpu(word[0]) >> 32;
    for (unsigned int i = 0; i < RACE_SECTOR / 8; i++) {
        if (word[i] != word_at(sector, i, *stamp)) {
            return false;
        }
    }
    return true;
}

/* The model */

Model *model_new(void)
{
    Model *m = g_new0(Model, 1);
    Content old = { RACE_STAMP_OLD, ALIVE };

    for (unsigned int i = 0; i < RACE_SECTORS; i++) {
        m->sector[i].may = g_array_new(false, false, sizeof(Content));
        g_array_append_val(m->sector[i].may, old);
    }
    return m;
}

void model_free(Model *m)
{
    for (unsigned int i = 0; i < RACE_SECTORS; i++) {
        g_array_free(m->sector[i].may, true);
    }
    g_free(m);
}

uint64_t model_tick(Model *m)
{
    return ++m->now;
}

bool model_lock(Model *m, uint64_t sector, unsigned int num, bool writer)
{
    g_assert_cmpuint(sector + num, <=, RACE_SECTORS);
    for (unsigned int i = sector; i < sector + num; i++) {
        if (m->sector[i].writer || (writer && m->sector[i].readers)) {
            return false;
        }
    }
    for (unsigned int i = sector; i < sector + num; i++) {
        m->sector[i].writer |= writer;
        m->sector[i].readers += !writer;
    }
    return true;
}

static Content *content_at(Sector *s, unsigned int i)
{
    return &g_array_index(s->may, Content, i);
}

/* All but @stamp have been gone since @when. */
static void settle(Sector *s, uint32_t stamp, uint64_t when)
{
    for (unsigned int i = 0; i < s->may->len; i++) {
        Content *c = content_at(s, i);

        if (c->stamp != stamp && c->gone > when) {
            c->gone = when;
        }
    }
}

/* Forget what has been gone for so long that no request is that old. */
static void prune(Sector *s, uint64_t now)
{
    for (unsigned int i = s->may->len; i-- > 0;) {
        if (s->may->len > 64 && now > 1000000 &&
            content_at(s, i)->gone < now - 1000000) {
            g_array_remove_index_fast(s->may, i);
        }
    }
}

void model_write(Model *m, uint64_t sector, unsigned int num, uint32_t stamp)
{
    for (unsigned int i = sector; i < sector + num; i++) {
        Sector *s = &m->sector[i];
        Content c = { stamp, ALIVE };

        g_assert_true(s->writer);
        prune(s, m->now);
        /* It may be there already: discarded, or zeroes */
        for (unsigned int j = s->may->len; j-- > 0;) {
            if (content_at(s, j)->stamp == stamp) {
                g_array_remove_index_fast(s->may, j);
            }
        }
        g_array_append_val(s->may, c);
    }
}

void model_written(Model *m, uint64_t sector, unsigned int num,
                   uint32_t stamp, bool done)
{
    uint64_t now = model_tick(m);

    for (unsigned int i = sector; i < sector + num; i++) {
        Sector *s = &m->sector[i];

        g_assert_true(s->writer);
        s->writer = false;
        s->settled = now;
        if (done) {
            settle(s, stamp, now);
        }
    }
}

static void check_sector(Sector *s, unsigned int n, const uint8_t *buf,
                         uint64_t start)
{
    uint32_t stamp;

    if (!race_stamp_of(buf, n, &stamp)) {
        race_fail("sector %u is torn, or not its own: stamp %u", n, stamp);
    }
    for (unsigned int i = 0; i < s->may->len; i++) {
        Content *c = content_at(s, i);

        if (c->stamp == stamp) {
            if (c->gone <= start) {
                race_fail("sector %u holds stamp %u, gone at %" PRIu64
                          ", and was read at %" PRIu64, n, stamp, c->gone,
                          start);
            }
            return;
        }
    }
    race_fail("sector %u holds stamp %u, which was never there", n, stamp);
}

void model_read(Model *m, uint64_t sector, unsigned int num,
                const uint8_t *buf, uint64_t start, bool locked)
{
    model_tick(m);
    for (unsigned int i = 0; i < num; i++) {
        Sector *s = &m->sector[sector + i];
        const uint8_t *got = buf + i * RACE_SECTOR;
        uint32_t stamp;

        if (buf) {
            check_sector(s, sector + i, got, start);
            if (locked) {
                race_stamp_of(got, sector + i, &stamp);
                settle(s, stamp, s->settled);
            }
        }
        if (locked) {
            g_assert_cmpuint(s->readers, >, 0);
            s->readers--;
        }
    }
}

void model_check_disk(Model *m, Store *store)
{
    uint64_t now = model_tick(m);

    for (unsigned int i = 0; i < RACE_SECTORS; i++) {
        Sector *s = &m->sector[i];
        uint64_t buf[RACE_SECTOR / 8];
        uint32_t stamp;

        store_peek(store, i, (uint8_t *)buf);
        check_sector(s, i, (uint8_t *)buf, now);
        if (!s->writer) {
            race_stamp_of((uint8_t *)buf, i, &stamp);
            settle(s, stamp, s->settled);
        }
    }
}
