/*
 * A virtio driver for the fuzz targets of devices with cancel=
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Registers of virtio-pci, rings, and requests with memory of their own: a
 * slot.  What the device does with a slot is checked when it is used, when it
 * is used for another request, and at the end.
 */

#ifndef TESTS_QTEST_FUZZ_CANCEL_FUZZ_VIRTIO_H
#define TESTS_QTEST_FUZZ_CANCEL_FUZZ_VIRTIO_H

#include "cancel_fuzz.h"

#define FV_QUEUES       4
#define FV_QUEUE_SIZE   16
#define FV_SLOTS        48
#define FV_MAX_SEGS     8
#define FV_MAX_DATA     (8 * KiB)
#define FV_NO_STATUS    0xff

typedef struct FvSlot {
    /* Set by fv_new(), fv_add() */
    unsigned int queue;
    unsigned int order;         /* of what was made available or used, from 1 */
    uint16_t id;                /* descriptor */
    unsigned int num_descs;
    bool busy;                  /* with the device */
    bool poisoned;

    /* Set by the target */
    unsigned int kind;
    uint64_t tag;
    unsigned int disk;          /* of several that a device has */
    uint64_t sector;
    uint32_t len;               /* bytes of data, or of the range */
    uint32_t serial;            /* of a write, or 0 */
    int target;                 /* slot of what this is to take back, or -1 */
    unsigned int target_order;  /* of that slot, to know whether it is that */

    /* Set when it is used */
    unsigned int used_order;
    uint32_t used_len;
    bool asked;                 /* to be taken back */
    bool given_up;              /* came back as cancelled, or by a reset */
} FvSlot;

typedef struct FvSeg {
    uint64_t addr;
    uint32_t len;
    bool write;                 /* by the device */
} FvSeg;

typedef struct FvQueue {
    unsigned int num_free;
    uint16_t free_id[FV_QUEUE_SIZE];
    int owner[FV_QUEUE_SIZE];   /* slot by id, or -1 */
    unsigned int free_descs;    /* packed */
    uint16_t next[FV_QUEUE_SIZE];
    uint16_t avail_idx;
    uint16_t used_idx;
    bool avail_wrap;            /* packed */
    bool used_wrap;
    bool enabled;
} FvQueue;

typedef struct Fv {
    FuzzPCI pci;
    QTestState *qts;
    unsigned int num_queues;
    uint64_t features;          /* negotiated */
    bool live;                  /* DRIVER_OK, and nothing is wrong */
    bool hostile;               /* the guest has broken the rules */
    FvQueue queue[FV_QUEUES];
    FvSlot slot[FV_SLOTS];
    unsigned int clock;         /* counts what was made available, and used */

    /* @s has been used: its memory is as the device has left it */
    void (*used)(struct Fv *v, FvSlot *s);
} Fv;

/* The parts of a slot in guest memory, and the rings */
uint64_t fv_header(Fv *v, FvSlot *s);       /* up to 256 bytes */
uint64_t fv_response(Fv *v, FvSlot *s);     /* up to 256 bytes */
uint64_t fv_data(Fv *v, FvSlot *s);         /* up to FV_MAX_DATA */
uint64_t fv_ring(unsigned int queue);       /* 4 KiB each: desc, avail, used */

static inline bool fv_has(Fv *v, unsigned int bit)
{
    return v->features & (1ull << bit);
}

/* Forget what was; the device has been reset. */
void fv_forget(Fv *v);

/* Up to DRIVER_OK.  Returns: false if the device does not accept @features. */
bool fv_start(Fv *v, uint64_t features);

/* Reset the device by its status; everything is given up. */
void fv_reset(Fv *v);

/* The guest breaks the rules from now on. */
void fv_set_hostile(Fv *v);

/* Reset a virtqueue and enable it again; what is in it is given up. */
void fv_reset_queue(Fv *v, unsigned int queue);

/* Returns: a slot that is free, its memory not poisoned; or NULL */
FvSlot *fv_new(Fv *v);

/* The @n-th of those that are with the device, and for which @is; or NULL */
FvSlot *fv_pick(Fv *v, unsigned int n, bool (*is)(FvSlot *s));

/*
 * Add @s to its queue, for the device to see.  Returns: false if there is no
 * room, or the queue is not there.
 */
bool fv_add(Fv *v, FvSlot *s, FvSeg *segs, unsigned int num, bool indirect);

void fv_kick(Fv *v, unsigned int queue);

/* Look into the used rings. */
void fv_reap(Fv *v);

/* Whether nothing is left with the device */
bool fv_idle(Fv *v);

/* At the end: the poison is where it was. */
void fv_check(Fv *v);

/* Every write that was given up before @s was made available has ended. */
void fv_check_settled(Fv *v, FvSlot *s);

/* Write @len bytes of @value to register @offset of the BAR. */
void fv_write(Fv *v, uint64_t offset, uint64_t value, unsigned int len);

#endif
