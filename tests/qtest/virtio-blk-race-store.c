/*
 * The race tests of virtio-blk's CANCEL request: storage that hangs at will
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An NBD server (the old style of negotiation is all it takes) with the disk
 * in memory.  It decides for each request when to answer, and whether the data
 * moves when the request comes or when it is answered.  It also looks at what
 * no guest can see: writes that arrive while an earlier one of the same sectors
 * has not ended, and data that was taken from a buffer too late.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include <sys/socket.h>
#include "qemu/bswap.h"
#include "qemu/atomic.h"
#include "virtio-blk-race.h"

#define NBD_OLDSTYLE_MAGIC  0x00420281861253ull
#define NBD_REQ_MAGIC       0x25609513
#define NBD_REPLY_MAGIC     0x67446698
#define NBD_HAS_FLUSH       (1 << 2)
#define NBD_HAS_TRIM        (1 << 5)
#define NBD_HAS_ZEROES      (1 << 6)
#define NBD_ERROR_IO        5

enum { CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_ZEROES = 6 };

/* NBD has room for 16; the others must get on */
#define MAX_NEVER           8
#define LATE_US             3000
#define DRAIN_US            500
#define STAMPS              (1 << 24)   /* flags are kept for so many */

typedef struct QEMU_PACKED NbdRequest {
    uint32_t magic;
    uint16_t flags;
    uint16_t type;
    uint64_t cookie;
    uint64_t offset;
    uint32_t len;
} NbdRequest;

typedef struct QEMU_PACKED NbdReply {
    uint32_t magic;
    uint32_t error;
    uint64_t cookie;
} NbdReply;

typedef struct Pending {
    unsigned int type;
    uint64_t cookie;
    uint64_t offset;
    uint32_t len;
    uint8_t *data;              /* of a read once it is known, or a write */
    bool landed;
    bool fails;
    gint64 due;                 /* G_MAXINT64: never */
    QTAILQ_ENTRY(Pending) next;
} Pending;

struct Store {
    /* Set once */
    uint64_t size;
    bool checked;
    char *path;
    int listener;
    int wake[2];                /* a pipe */
    GThread *thread;

    /* The thread's */
    int fd;
    GRand *rand;

    GMutex lock;
    /* Protected by the lock */
    StoreMode mode;
    bool quit;
    uint8_t *disk;
    QTAILQ_HEAD(, Pending) pending;
    unsigned int num_pending;
    unsigned int num_never;
    unsigned int answered;
    unsigned int late_writes;
    uint8_t *canceled;          /* by stamp */
};

/* Returns: false at the end of the connection */
static bool receive(Store *store, void *buf, size_t len)
{
    return recv(store->fd, buf, len, MSG_WAITALL) == len;
}

static bool transmit(Store *store, const void *buf, size_t len, int flags)
{
    while (len) {
        ssize_t n = send(store->fd, buf, len, flags | MSG_NOSIGNAL);

        if (n <= 0) {
            return false;
        }
        buf = (const uint8_t *)buf + n;
        len -= n;
    }
    return true;
}

static bool changes(const Pending *p)
{
    return p->type == CMD_WRITE || p->type == CMD_TRIM ||
           p->type == CMD_ZEROES;
}

/* What arrives must not race with what is here. */
static void check_overlap(Store *store, const Pending *p)
{
    Pending *other;

    if (!changes(p)) {
        return;
    }
    QTAILQ_FOREACH(other, &store->pending, next) {
        if (changes(other) && other->offset < p->offset + p->len &&
            p->offset < other->offset + other->len) {
            race_fail("storage: command %u at sector %" PRIu64 " overlaps "
                      "command %u at %" PRIu64 ", which has not ended",
                      p->type, p->offset / RACE_SECTOR, other->type,
                      other->offset / RACE_SECTOR);
        }
    }
}

/* The data of a write is all of one stamp, that of a write of the guest. */
static void check_data(const Pending *p)
{
    uint32_t first = 0, stamp;

    for (uint32_t at = 0; at < p->len; at += RACE_SECTOR) {
        uint64_t sector = (p->offset + at) / RACE_SECTOR;

        if (!race_stamp_of(p->data + at, sector, &stamp) ||
            stamp < RACE_STAMP_FIRST || (at && stamp != first)) {
            race_fail("storage: a write to sector %" PRIu64 " has stamp %u "
                      "where it is not to be", sector, stamp);
        }
        first = stamp;
    }
}

static void count_late(Store *store, const Pending *p)
{
    uint32_t stamp;

    if (p->type == CMD_WRITE &&
        race_stamp_of(p->data, p->offset / RACE_SECTOR, &stamp)) {
        store->late_writes += store->canceled[stamp % STAMPS];
    }
}

/* Move the data. */
static void land(Store *store, Pending *p)
{
    uint8_t *at = store->disk + p->offset;
    uint64_t sector = p->offset / RACE_SECTOR;

    p->landed = true;
    switch (p->type) {
    case CMD_READ:
        p->data = g_memdup2(at, p->len);
        break;
    case CMD_WRITE:
        if (store->checked) {
            count_late(store, p);
        }
        memcpy(at, p->data, p->len);
        break;
    case CMD_TRIM:
        if (store->checked) {
            race_fill(at, sector, p->len / RACE_SECTOR, RACE_STAMP_DISCARD);
        }
        break;
    case CMD_ZEROES:
        memset(at, 0, p->len);
        break;
    default:
        break;
    }
}

static gint64 soon(Store *store, int max_us)
{
    return g_get_monotonic_time() + g_rand_int_range(store->rand, 0, max_us);
}

/* When to answer */
static gint64 choose_due(Store *store)
{
    int dice = g_rand_int_range(store->rand, 0, 10);

    switch (store->mode) {
    case STORE_FAST:
        return 0;
    case STORE_DRAIN:
        return dice < 5 ? 0 : soon(store, DRAIN_US);
    case STORE_MIXED:
        return dice < 4 ? 0 :
               dice < 7 || store->num_never >= MAX_NEVER ?
               soon(store, LATE_US) : G_MAXINT64;
    default:
        return G_MAXINT64;
    }
}

static void set_due(Store *store, Pending *p, gint64 due)
{
    store->num_never += due == G_MAXINT64;
    store->num_never -= p->due == G_MAXINT64;
    p->due = due;
}

static bool arrive(Store *store)
{
    NbdRequest request;
    Pending *p;

    if (!receive(store, &request, sizeof(request))) {
        return false;
    }
    g_assert_cmphex(be32_to_cpu(request.magic), ==, NBD_REQ_MAGIC);
    p = g_new0(Pending, 1);
    p->type = be16_to_cpu(request.type);
    p->cookie = request.cookie;
    p->offset = be64_to_cpu(request.offset);
    p->len = be32_to_cpu(request.len);
    g_assert_cmpuint(p->offset + p->len, <=, store->size);
    if (p->type == CMD_DISC) {
        g_free(p);
        return false;
    }
    if (p->type == CMD_WRITE) {
        p->data = g_malloc(p->len);
        if (!receive(store, p->data, p->len)) {
            g_free(p->data);
            g_free(p);
            return false;
        }
        if (store->checked) {
            check_data(p);
        }
    }

    g_mutex_lock(&store->lock);
    if (store->checked) {
        check_overlap(store, p);
        p->fails = g_rand_int_range(store->rand, 0, 40) == 0;
    }
    set_due(store, p, choose_due(store));
    if (store->checked && g_rand_boolean(store->rand)) {
        land(store, p);
    }
    QTAILQ_INSERT_TAIL(&store->pending, p, next);
    store->num_pending++;
    g_mutex_unlock(&store->lock);
    return true;
}

static bool answer(Store *store, Pending *p)
{
    NbdReply reply = {
        .magic = cpu_to_be32(NBD_REPLY_MAGIC),
        .error = cpu_to_be32(p->fails ? NBD_ERROR_IO : 0),
        .cookie = p->cookie,
    };
    bool has_data = p->type == CMD_READ && !p->fails;

    return transmit(store, &reply, sizeof(reply), has_data ? MSG_MORE : 0) &&
           (!has_data || transmit(store, p->data, p->len, 0));
}

/* Take the request to be answered first, if it is time. */
static Pending *take_due(Store *store, gint64 now)
{
    Pending *p, *first = NULL;

    g_mutex_lock(&store->lock);
    QTAILQ_FOREACH(p, &store->pending, next) {
        if (p->due <= now && (!first || p->due < first->due)) {
            first = p;
        }
    }
    if (first) {
        /* One that fails may have done it */
        if (!first->landed && (!first->fails || first->due % 2)) {
            land(store, first);
        }
        QTAILQ_REMOVE(&store->pending, first, next);
        store->num_pending--;
        store->answered++;
    }
    g_mutex_unlock(&store->lock);
    return first;
}

/* Returns: the time until the next answer is due, or -1 */
static gint64 time_to_next(Store *store)
{
    gint64 next = G_MAXINT64;
    Pending *p;

    g_mutex_lock(&store->lock);
    QTAILQ_FOREACH(p, &store->pending, next) {
        next = MIN(next, p->due);
    }
    g_mutex_unlock(&store->lock);
    return next == G_MAXINT64 ? -1 : MAX(next - g_get_monotonic_time(), 0);
}

/* Wait for something to do; returns whether there is a request. */
static bool wait_for_work(Store *store)
{
    gint64 us = time_to_next(store);
    struct timespec ts = { .tv_nsec = MIN(us, 999999) * 1000 };
    struct pollfd fds[2] = {
        { .fd = store->wake[0], .events = POLLIN },
        { .fd = store->fd, .events = POLLIN },
    };
    bool stopped;
    char c;

    g_mutex_lock(&store->lock);
    stopped = store->mode == STORE_STOPPED;
    g_mutex_unlock(&store->lock);
    ppoll(fds, stopped ? 1 : 2, us < 0 ? NULL : &ts, NULL);
    if (fds[0].revents && read(store->wake[0], &c, 1) < 0) {
        return false;
    }
    return !stopped && fds[1].revents;
}

static bool negotiate(Store *store)
{
    struct QEMU_PACKED {
        char magic[8];
        uint64_t server;
        uint64_t size;
        uint32_t flags;
        uint8_t zeroes[124];
    } hello = {
        .magic = "NBDMAGIC",
        .server = cpu_to_be64(NBD_OLDSTYLE_MAGIC),
        .size = cpu_to_be64(store->size),
        .flags = cpu_to_be32(1 | NBD_HAS_FLUSH | NBD_HAS_TRIM |
                             NBD_HAS_ZEROES),
    };

    store->fd = accept(store->listener, NULL, NULL);
    return store->fd >= 0 && transmit(store, &hello, sizeof(hello), 0);
}

static void *store_thread(void *opaque)
{
    Store *store = opaque;
    bool alive = negotiate(store);
    Pending *p;

    while (alive && !qatomic_read(&store->quit)) {
        if (wait_for_work(store)) {
            alive = arrive(store);
        }
        while (alive && (p = take_due(store, g_get_monotonic_time()))) {
            alive = answer(store, p);
            g_free(p->data);
            g_free(p);
        }
    }
    if (store->fd >= 0) {
        close(store->fd);
    }
    return NULL;
}

static void kick(Store *store)
{
    g_assert_cmpint(write(store->wake[1], "", 1), ==, 1);
}

void store_set_mode(Store *store, StoreMode mode)
{
    Pending *p;

    g_mutex_lock(&store->lock);
    store->mode = mode;
    if (mode == STORE_FAST || mode == STORE_DRAIN || mode == STORE_MIXED) {
        gint64 now = g_get_monotonic_time();
        unsigned int i = 0;

        /* Newer ones first as well as older ones */
        QTAILQ_FOREACH(p, &store->pending, next) {
            if (p->due == G_MAXINT64 && (mode != STORE_MIXED || i % 2)) {
                set_due(store, p, now + i * 37 % DRAIN_US);
            }
            i++;
        }
    }
    g_mutex_unlock(&store->lock);
    kick(store);
}

Store *store_new(uint64_t size, uint32_t seed, bool checked)
{
    Store *store = g_new0(Store, 1);
    int fd = g_file_open_tmp("qtest-race.XXXXXX", &store->path, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    unlink(store->path);
    store->size = size;
    store->checked = checked;
    store->fd = -1;
    store->rand = g_rand_new_with_seed(seed);
    g_mutex_init(&store->lock);
    store->disk = g_malloc0(size);
    store->canceled = g_malloc0(STAMPS);
    if (checked) {
        race_fill(store->disk, 0, size / RACE_SECTOR, RACE_STAMP_OLD);
    }
    QTAILQ_INIT(&store->pending);
    g_assert_cmpint(pipe(store->wake), ==, 0);
    store->listener = qtest_socket_server(store->path);
    store->thread = g_thread_new("store", store_thread, store);
    return store;
}

void store_free(Store *store)
{
    Pending *p;

    qatomic_set(&store->quit, true);
    kick(store);
    g_thread_join(store->thread);
    while ((p = QTAILQ_FIRST(&store->pending))) {
        QTAILQ_REMOVE(&store->pending, p, next);
        g_free(p->data);
        g_free(p);
    }
    close(store->listener);
    close(store->wake[0]);
    close(store->wake[1]);
    unlink(store->path);
    g_rand_free(store->rand);
    g_mutex_clear(&store->lock);
    g_free(store->path);
    g_free(store->disk);
    g_free(store->canceled);
    g_free(store);
}

const char *store_socket(Store *store)
{
    return store->path;
}

void store_peek(Store *store, uint64_t sector, uint8_t *buf)
{
    g_mutex_lock(&store->lock);
    memcpy(buf, store->disk + sector * RACE_SECTOR, RACE_SECTOR);
    g_mutex_unlock(&store->lock);
}

void store_note_canceled(Store *store, uint32_t stamp)
{
    g_mutex_lock(&store->lock);
    store->canceled[stamp % STAMPS] = 1;
    g_mutex_unlock(&store->lock);
}

static unsigned int read_locked(Store *store, const unsigned int *figure)
{
    unsigned int n;

    g_mutex_lock(&store->lock);
    n = *figure;
    g_mutex_unlock(&store->lock);
    return n;
}

unsigned int store_pending(Store *store)
{
    return read_locked(store, &store->num_pending);
}

unsigned int store_late_writes(Store *store)
{
    return read_locked(store, &store->late_writes);
}

unsigned int store_answered(Store *store)
{
    return read_locked(store, &store->answered);
}
