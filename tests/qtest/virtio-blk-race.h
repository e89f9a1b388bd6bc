/*
 * What the race tests of virtio-blk's CANCEL request stand on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * virtio-blk-race-store.c is storage that answers requests early, late or not
 * at all; virtio-blk-race-model.c knows what each sector may hold;
 * virtio-blk-race-guest.c is a guest that shares its memory with QEMU, so that
 * it races with the device as a processor does, and that checks every used
 * element.
 */

#ifndef TESTS_QTEST_VIRTIO_BLK_RACE_H
#define TESTS_QTEST_VIRTIO_BLK_RACE_H

#include "libqtest.h"
#include "libqos/libqos-malloc.h"
#include "libqos/pci.h"
#include "libqos/virtio-pci.h"

#define RACE_SECTOR         512
#define RACE_SECTORS        384         /* of the disk */
#define RACE_MAX_SECTORS    16          /* of a request */
#define RACE_PATIENCE_US    (60 * G_USEC_PER_SEC)

/* What a sector holds that was not written by a request of its own stamp */
#define RACE_STAMP_ZEROES   0
#define RACE_STAMP_DISCARD  1
#define RACE_STAMP_OLD      2
#define RACE_STAMP_CANARY   3           /* buffers nobody may touch */
#define RACE_STAMP_FIRST    4

/* Say what is wrong and how to see it again, and end the test. */
void race_fail(const char *fmt, ...) G_GNUC_PRINTF(1, 2) G_GNUC_NORETURN;

/*
 * What race_fail(), or any failed assertion, says in the end, until it is set
 * to NULL; neither is copied.
 */
void race_set_replay(const char *text, const unsigned int *round);

/*
 * Contents
 */

void race_fill(uint8_t *buf, uint64_t sector, unsigned int num,
               uint32_t stamp);

/* Returns: false if this sector's content is torn, or that of another one. */
bool race_stamp_of(const uint8_t *buf, uint64_t sector, uint32_t *stamp);

/*
 * The storage: an NBD server in a thread of its own
 */

typedef enum StoreMode {
    STORE_FAST,             /* answers at once */
    STORE_MIXED,            /* at once, later, or not while in this mode */
    STORE_HUNG,             /* answers nothing */
    STORE_STOPPED,          /* does not even listen */
    STORE_DRAIN,            /* answers all, in any order, within milliseconds */
} StoreMode;

typedef struct Store Store;

/*
 * @checked: requests are to have contents as above, and fail at times;
 *           otherwise any content will do, and nothing fails
 */
Store *store_new(uint64_t size, uint32_t seed, bool checked);

/* The NBD client has gone, or is about to. */
void store_free(Store *store);

const char *store_socket(Store *store);
void store_set_mode(Store *store, StoreMode mode);

/* Look at what is on the disk now. */
void store_peek(Store *store, uint64_t sector, uint8_t *buf);

/* The guest has seen that the write with this stamp was cancelled. */
void store_note_canceled(Store *store, uint32_t stamp);

/* Requests that have arrived and have not been answered */
unsigned int store_pending(Store *store);

/* Writes that landed after the guest had seen them cancelled */
unsigned int store_late_writes(Store *store);

/* Requests answered ever */
unsigned int store_answered(Store *store);

/*
 * The model
 *
 * Its user, which is the guest, never has two requests for the same sector
 * outstanding of which one writes, except for reads that say so.
 */

typedef struct Model Model;

Model *model_new(void);
void model_free(Model *m);

/* Events have times; the next one. */
uint64_t model_tick(Model *m);

/* Lock a range; returns false if it is in use. */
bool model_lock(Model *m, uint64_t sector, unsigned int num, bool writer);

/* A write was made available. */
void model_write(Model *m, uint64_t sector, unsigned int num, uint32_t stamp);

/* It has been used.  @done: with success; else it may be there or not. */
void model_written(Model *m, uint64_t sector, unsigned int num,
                   uint32_t stamp, bool done);

/*
 * A read that was made available at @start has been used, with success if
 * @buf is not NULL.  @locked: model_lock() was called for it.
 */
void model_read(Model *m, uint64_t sector, unsigned int num,
                const uint8_t *buf, uint64_t start, bool locked);

/* No request of the disk is running: compare it with what may be there. */
void model_check_disk(Model *m, Store *store);

/*
 * The guest
 */

#define GUEST_MAX_QUEUES    8
#define GUEST_QUEUE_SIZE    256
#define GUEST_RING_SIZE     (16 * 1024) /* bytes, all of its parts */
#define GUEST_RAM_SIZE      (64 * 1024 * 1024)

typedef struct GuestOptions {
    bool packed;
    unsigned int queues;
    unsigned int iothreads;
    const char *device;         /* more of the device's JSON, or NULL */
    const char *drive;          /* more of -drive's options, or NULL */
    const char *args;           /* more arguments, or NULL */
    const char *file;           /* options of what the disk is on, or NULL */
} GuestOptions;

typedef struct GuestReq {
    uint32_t type;
    unsigned int queue;
    uint64_t tag;               /* of a CANCEL: its target's */
    uint64_t sector;
    unsigned int num;           /* sectors; RACE_MAX_SECTORS at most, unless */
    uint64_t data;              /* this is the guest address of the data */
    uint32_t stamp;             /* of a write */
    bool with_data;             /* a CANCEL that is malformed */
    bool locked;                /* the model's locks are held */
    bool asked;                 /* a CANCEL names it */
    bool after_target;          /* a CANCEL, its target is in the ring */
    uint64_t start;             /* of a read: the model's time */

    /* The guest's */
    unsigned int page;
    uint16_t id;
} GuestReq;

typedef struct GuestQueue {
    /* Guest addresses */
    uint64_t desc;
    uint64_t avail;
    uint64_t used;
    uint64_t area;              /* all of it, in two halves */
    bool half;                  /* the one in use */
    uint8_t *old;               /* what the other one held at reset */

    uint32_t notify;
    uint16_t avail_idx;
    uint16_t used_idx;
    bool avail_wrap;            /* packed */
    bool used_wrap;             /* packed */
    uint16_t batch_idx;         /* packed: the first of this batch */
    uint16_t batch_flags;
    unsigned int batch;         /* requests in it */
    GuestReq *owner[GUEST_QUEUE_SIZE];  /* outstanding, by descriptor */
    uint16_t free_id[GUEST_QUEUE_SIZE];
    unsigned int num_free;
    unsigned int requests;      /* outstanding, without CANCELs */
    unsigned int cancels;       /* outstanding */
} GuestQueue;

typedef struct GuestStats {
    uint64_t requests;
    uint64_t cancels;           /* CANCELs used */
    uint64_t canceled;          /* requests that came back cancelled */
    uint64_t failed;
    unsigned int resets;
    unsigned int drains;
} GuestStats;

typedef struct Guest Guest;
struct Guest {
    GuestOptions opts;
    Guest *host;                /* who started QEMU, or NULL: we */
    Store *store;               /* NULL: the disk is on opts.file */
    Model *model;               /* NULL: contents are not looked at */
    QTestState *qts;
    QGuestAllocator alloc;
    QPCIBus *bus;
    QVirtioPCIDevice *pci;
    QVirtioDevice *dev;
    char *ram_file;
    uint8_t *ram;
    uint64_t pages;             /* guest address of the first */
    GQueue free_pages;          /* longest free first */
    GuestQueue queue[GUEST_MAX_QUEUES];
    uint64_t next_tag;
    GuestStats stats;
};

/* virtio-blk-race-machine.c */

/* Whether to reset the device also while requests hang: RACE_RESET_HELD */
bool race_reset_held(void);


/* Start QEMU with a disk on @store, and the device up to DRIVER_OK. */
Guest *guest_start(const GuestOptions *opts, Store *store, Model *model);

/* Drive another device of the same QEMU, see guest_disk_args(). */
Guest *guest_attach(Guest *host, const GuestOptions *opts, unsigned int slot,
                    Store *store, Model *model);

/* The arguments for such a device in @slot, in an IOThread of its own */
char *guest_disk_args(unsigned int slot, Store *store);

/* Nothing is outstanding any more: end it, check all memory. */
void guest_end(Guest *g);

/* Reset the device and start it again; what is outstanding is cancelled. */
void guest_reset(Guest *g);

/* QMP stop, check the disk, QMP cont. */
void guest_stop_cont(Guest *g);

/* virtio-blk-race-guest.c */

/* Whether @queue has room for one more request */
bool guest_has_room(Guest *g, unsigned int queue);

/*
 * Add a copy of @what to the ring; its tag is chosen, unless it is a CANCEL.
 * The device sees it from guest_kick() on.
 */
GuestReq *guest_add(Guest *g, const GuestReq *what);
void guest_kick(Guest *g, unsigned int queue);

/* Look into the used rings, and check what is there. */
void guest_reap(Guest *g);

/* Reap until @cond. */
#define guest_wait(g, cond)                                             \
    do {                                                                \
        gint64 end_ = g_get_monotonic_time() + RACE_PATIENCE_US;        \
        for (guest_reap(g); !(cond); guest_reap(g)) {                   \
            if (g_get_monotonic_time() > end_ ||                        \
                !qtest_probe_child((g)->qts)) {                         \
                race_fail("waited in vain for: %s", #cond);             \
            }                                                           \
            g_usleep(50);                                               \
        }                                                               \
    } while (0)

/* A request, not a CANCEL, that is outstanding on @queue, or NULL */
GuestReq *guest_find(Guest *g, unsigned int queue, uint64_t tag);

/* Outstanding, of all queues */
unsigned int guest_cancels(Guest *g);
unsigned int guest_requests(Guest *g);

/* What virtio-blk-race-machine.c needs: rings and pages are new, */
void guest_init_queue(Guest *g, unsigned int index);
void guest_init_pages(Guest *g, QGuestAllocator *alloc);

/* nothing has touched the pages, */
void guest_check_pages(Guest *g);

/* and what was outstanding has been ended by a reset. */
void guest_drop_all(Guest *g);

/* virtio-blk-race-bounds.c */
void race_add_bounds_tests(void);

#endif
