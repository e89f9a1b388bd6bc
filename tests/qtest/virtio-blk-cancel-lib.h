/*
 * What the tests of virtio-blk's CANCEL request stand on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A Vbc is one QEMU with one virtio-blk device, its virtqueues (split or
 * packed, direct or indirect descriptors) and a disk image whose storage can be
 * made to hang: as a whole (a storage daemon that is stopped) or one operation
 * at a time (blkdebug).  A VbcReq is one request.  Every used element is
 * checked against what is outstanding, so that each test also tests "exactly
 * once".
 */

#ifndef TESTS_QTEST_VIRTIO_BLK_CANCEL_LIB_H
#define TESTS_QTEST_VIRTIO_BLK_CANCEL_LIB_H

#include "disk-pattern.h"
#include "hang-watch.h"
#include "libqtest.h"
#include "libqos/libqos-malloc.h"
#include "libqos/pci.h"
#include "libqos/virtio-mmio.h"
#include "libqos/virtio-pci.h"
#include "standard-headers/linux/virtio_blk.h"
#include "standard-headers/linux/virtio_config.h"

/*
 * The wire once more, in numbers: the tests hold the device to them, and so do
 * not take them from its header.
 */
#define VBC_F_CANCEL            50
#define VBC_T_CANCEL            28
#define VBC_T_BARRIER           0x80000000u
#define VBC_S_CANCELED          7
#define VBC_S_NOT_CANCELED      8
#define VBC_HEADER              24      /* bytes, with the feature */
#define VBC_HEADER_STOCK        16      /* bytes, without */

#define VBC_F(bit)              (1ull << (bit))
#define VBC_SECTOR              512
#define VBC_DISK_SIZE           (4 * 1024 * 1024)
#define VBC_MAX_QUEUES          16
#define VBC_MAX_QUEUE_SIZE      1024
#define VBC_MAX_SEGMENTS        1024    /* of a request */
#define VBC_NO_STATUS           0xff    /* in the status byte until used */
#define VBC_PATIENCE_US         (30 * G_USEC_PER_SEC)
#define VBC_SLOT                4       /* of the PCI bus */
#define VBC_BEHIND_PORT         0x100   /* bus 1, slot 0, function 0 */
#define VBC_HANGING             32      /* requests of vbc_hang_some() */

/* Contents; disk_pattern() */
#define VBC_ZEROES              DISK_ZEROES
#define VBC_OLD                 0       /* what the disk holds at first */
#define VBC_POISON              0xd1    /* buffers nobody may touch */

/*
 * Whether QEMU's memory can be measured: AddressSanitizer keeps for a while
 * what has been freed.
 */
#ifdef CONFIG_ASAN_IFACE_FIBER
#define VBC_KNOWS_MEMORY    false
#else
#define VBC_KNOWS_MEMORY    true
#endif

/* How descriptors are laid out */
#define VBC_PACKED              1
#define VBC_INDIRECT            2

typedef enum VbcTransport {
    VBC_PCI,
    VBC_PCI_LEGACY,             /* a driver that knows only that interface */
    VBC_MMIO,                   /* of a microvm */
} VbcTransport;

typedef struct VbcOptions {
    VbcTransport transport;
    const char *machine;        /* NULL: pc, or microvm */
    uint64_t features;          /* the driver wants these, too */
    unsigned int ring;          /* VBC_PACKED | VBC_INDIRECT */
    unsigned int queues;        /* 0: one */
    unsigned int iothreads;     /* 0: main loop; > 1: queues mapped to them */
    bool server;                /* storage behind a daemon: vbc_hold() works */
    bool node;                  /* -blockdev, named drv, in place of -drive */
    bool stock;                 /* the device has no cancel=on */
    bool decline;               /* the driver does not accept the feature */
    bool no_start;              /* leave the device alone after finding it */
    bool port;                  /* behind a PCIe root port; machine q35 */
    const char *device;         /* more of the device's JSON, or NULL */
    const char *drive;          /* more of -drive's options, or NULL */
    const char *format;         /* NULL: raw */
    const char *drive_all;      /* in place of all these, or NULL */
    const char *device_all;     /* -device arguments instead, or NULL */
    const char *args;           /* more arguments, or NULL */
    const char *image;          /* an image to share, or NULL: a new one */
    bool slow;                  /* 2 requests a second, by a filter; "node" */
    const char *more[2];        /* images: exports disk1 and disk2 */
} VbcOptions;

typedef enum VbcFraming {
    VBC_FRAME_PLAIN,            /* header, data, status: a descriptor each */
    VBC_FRAME_JOINED,           /* one to be read, one to be written */
    VBC_FRAME_BYTES,            /* one for each byte of the header */
} VbcFraming;

typedef enum VbcDirection {
    VBC_DATA_BY_TYPE,
    VBC_DATA_IN,                /* written by the device */
    VBC_DATA_OUT,               /* read by it */
} VbcDirection;

typedef struct VbcReq {
    /* Set by the test */
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
    uint64_t tag;
    uint32_t len;               /* bytes of data, or of the range */
    uint32_t flags;             /* of a discard or write zeroes */
    int fill;                   /* what the data buffer holds before */
    unsigned int queue;
    unsigned int header;        /* bytes of header; 0: as negotiated */
    unsigned int split;         /* the header is cut after so many; 0: not */
    unsigned int pieces;        /* the data is cut into so many; 0: not */
    bool alias;                 /* all pieces are in the place of the first */
    uint32_t trailer;           /* bytes for the device before the status */
    uint64_t at;                /* where the data is, not filled; 0: anywhere */
    VbcFraming framing;
    VbcDirection direction;

    /* Set by vbc_add() */
    uint64_t mem;               /* guest address of the header */
    uint64_t data;              /* of the data */
    uint64_t status_addr;
    uint32_t data_len;          /* bytes of data buffer */
    unsigned int num_descs;     /* taken from the ring */
    uint16_t desc_id;

    /* The result: reset by vbc_add(), set by vbc_reap() */
    unsigned int order;         /* used as the n-th of all, 0: not yet */
    uint8_t status;
    uint32_t used_len;
} VbcReq;

typedef struct VbcSegment {
    uint64_t addr;
    uint32_t len;
    bool write;                 /* by the device */
} VbcSegment;

typedef struct VbcQueue {
    QVirtQueue *vq;
    VbcReq *owner[VBC_MAX_QUEUE_SIZE];  /* outstanding, by descriptor id */
    uint16_t free_id[VBC_MAX_QUEUE_SIZE];
    uint16_t next[VBC_MAX_QUEUE_SIZE];  /* split: the chain from each id */
    unsigned int num_free_ids;
    unsigned int free_slots;            /* packed */
    uint16_t avail_idx;
    uint16_t used_idx;
    bool avail_wrap;                    /* packed */
    bool used_wrap;                     /* packed */
    bool batch;                         /* packed: batch_flags hold it back */
    uint16_t batch_idx;
    uint16_t batch_flags;
} VbcQueue;

typedef struct Vbc {
    VbcOptions opts;
    QTestState *qts;
    QGuestAllocator alloc;
    QPCIBus *bus;
    QVirtioPCIDevice *pci;      /* or NULL */
    QVirtioMMIODevice *mmio;    /* or NULL */
    QVirtioDevice *dev;
    VbcQueue queue[VBC_MAX_QUEUES];
    unsigned int num_queues;
    unsigned int q;             /* the queue for tests that use one */
    unsigned int used;          /* used elements seen */
    char *image;
    char *socket;               /* of the storage daemon, or NULL */
    pid_t server;               /* the storage daemon, or 0 */
    bool held;                  /* it is stopped; atomic */
    GThread *releaser;          /* vbc_release_soon() */

    /* vbc_watch_begin() */
    HangWatch *watch;
} Vbc;

/*
 * vbc_start:
 *
 * Start QEMU, the storage daemon if wanted, and the device up to DRIVER_OK.
 *
 * Returns: NULL if the test was skipped.
 */
Vbc *vbc_start(const VbcOptions *opts);

/* Let go what hangs; check that nothing came twice; end everything. */
void vbc_stop(Vbc *v);

/* As vbc_stop(), but the device is gone or broken, or requests are left. */
void vbc_abandon(Vbc *v);

/*
 * Find the device, also when it was reset from outside with its PCI
 * configuration: what was outstanding is forgotten.
 */
void vbc_find_device(Vbc *v);

/* Initialise the device up to DRIVER_OK; the rings are new. */
void vbc_start_device(Vbc *v);

/* Reset the device and start it again.  What was outstanding is forgotten. */
void vbc_restart_device(Vbc *v);

/* Reset one virtqueue; vbc_ring_setup() enables it again. */
void vbc_reset_queue(Vbc *v, unsigned int index);

/* Add @r to the ring; the device may see it from vbc_publish() on. */
void vbc_add(Vbc *v, VbcReq *r);
void vbc_publish(Vbc *v, unsigned int queue);

/* The same, and notify the device. */
void vbc_kick(Vbc *v, unsigned int queue);
void vbc_send(Vbc *v, VbcReq *r);

/* The same for all of @r, on queue v->q; they are with the device then. */
void vbc_send_all(Vbc *v, VbcReq *r, unsigned int num);

/*
 * virtio-blk-cancel-bus.c: have a PCI device speak the legacy interface; find
 * the device of a microvm, with the interface that it has.
 */
void vbc_bus_make_legacy(QVirtioPCIDevice *pci);
QVirtioMMIODevice *vbc_bus_find_mmio(QTestState *qts);

/* virtio-blk-cancel-ring.c: a new ring; @segs, which it changes, for @r */
void vbc_ring_setup(Vbc *v, unsigned int index);
void vbc_ring_add(Vbc *v, VbcReq *r, VbcSegment *segs, unsigned int num);

/* Look into all used rings once. */
void vbc_reap(Vbc *v);

/* The name of a new file of @size zeroes: to be unlinked, and freed */
char *vbc_sparse_image(uint64_t size);

/* Wait until @r has been used. */
void vbc_wait(Vbc *v, VbcReq *r);

/* Wait until @r has been used, and check its status. */
void vbc_expect(Vbc *v, VbcReq *r, uint8_t status);

/* Send @r, wait, check its status. */
void vbc_do(Vbc *v, VbcReq *r, uint8_t status);

/* @r has not been used, as far as the used rings tell now. */
void vbc_expect_pending(Vbc *v, VbcReq *r);

/*
 * Wait until the device has handed everything that was sent on @queue to the
 * block layer.  Until then a CANCEL may find its target in the device, where
 * any request can be cancelled.  Storage may hang.
 */
void vbc_sync(Vbc *v, unsigned int queue);

/*
 * Cancel @tag on @queue, wait, check the CANCEL's status.
 * Returns: the place of the CANCEL's used element, as VbcReq.order.
 */
unsigned int vbc_cancel(Vbc *v, unsigned int queue, uint64_t tag,
                        uint8_t status);

/* Cancel @r, which must come back cancelled and before the CANCEL. */
void vbc_cancel_req(Vbc *v, VbcReq *r);

/* Write, and read and compare, through the device; each must succeed. */
void vbc_write(Vbc *v, uint64_t sector, uint32_t len, int fill);
void vbc_check_read(Vbc *v, uint64_t sector, uint32_t len, int fill);

/*
 * The driver gets the buffers of @r, which has been used, back and uses them
 * for something else; the device has left them alone since.
 */
void vbc_reuse(Vbc *v, VbcReq *r);
void vbc_check_reused(Vbc *v, VbcReq *r);

/* Each sector is the old or the cancelled one's, and stays what it is. */
void vbc_check_unspecified(Vbc *v, uint64_t sector, uint32_t len, int fill);

/* Fill, or check, the data buffer of @r. */
void vbc_fill(Vbc *v, VbcReq *r, int fill);
void vbc_check_data(Vbc *v, VbcReq *r, int fill);

/* Check the image file itself. */
void vbc_check_disk(Vbc *v, uint64_t sector, uint32_t len, int fill);

/* All storage hangs, until it is let go.  Needs the option "server". */
void vbc_hold(Vbc *v);
void vbc_release(Vbc *v);

/* Let it go from another thread, while this one is about to block. */
void vbc_release_soon(Vbc *v);

/*
 * What comes between these must not wait for the storage, which hangs: if it
 * does, the storage is let go after VBC_PATIENCE_US, and the test fails.
 */
void vbc_watch_begin(Vbc *v);
void vbc_watch_end(Vbc *v);

/*
 * Hold the storage and send VBC_HANGING requests, @r, on all queues; their
 * sectors are 64 to 163.  If the driver can, a third of them is cancelled, and
 * their buffers used for something else.
 */
void vbc_hang_some(Vbc *v, VbcReq *r);

/* Hold the storage and send one write, @r, whose content is 1. */
void vbc_hang_write(Vbc *v, VbcReq *r);

/*
 * QEMU has been asked to end, and is watched: @r has not landed.  Let it, and
 * wait for QEMU's end, which comes after.
 */
void vbc_expect_exit(Vbc *v, VbcReq *r);

/* Whether vbc_hang_some() has cancelled the @i-th. */
bool vbc_hang_canceled(Vbc *v, unsigned int i);

/*
 * One operation hangs: the next one that reaches @event (see BlkdebugEvent).
 * Not with the options "server" or "iothreads".
 */
void vbc_break(Vbc *v, const char *event, const char *name);
void vbc_wait_break(Vbc *v, const char *name);
void vbc_resume(Vbc *v, const char *name);

/*
 * Wait until the device and all storage are idle, and everything that was made
 * available and kicked has been seen.  Nothing may hang.
 */
void vbc_settle(Vbc *v);

/*
 * Run qemu-img, if have_qemu_img().  In the arguments @ stands for @dir.
 * Returns: its exit status, with what it said in the test's log, or 0.
 */
int vbc_qemu_img(const char *dir, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/*
 * Create a qcow2 image for a disk of 4 MiB, in a file of @size bytes: an export
 * does not grow.
 */
void vbc_create_qcow2(const char *image, off_t size);

/* What device_status reads. */
uint8_t vbc_device_status(Vbc *v);

/* The host features that QMP shows, as text. */
char *vbc_host_features(Vbc *v);

/* A figure of query-blockstats */
int64_t vbc_stat(Vbc *v, const char *name);

/* Register a test for each of some setups: @path/<setup>. */
#define VBC_SETUP_PLAIN         1       /* split ring, main loop */
#define VBC_SETUP_RINGS         2       /* the other layouts */
#define VBC_SETUP_IOTHREADS     4
#define VBC_SETUP_ALL           7

void vbc_add_test(const char *path, unsigned int setups,
                  void (*fn)(const void *opts));

/* virtio-blk-cancel-{wire,late,stop,reset,own}.c */
void vbc_add_wire_tests(void);
void vbc_add_late_tests(void);
void vbc_add_stop_tests(void);
void vbc_add_reset_tests(void);
void vbc_add_own_tests(void);

/* virtio-blk-cancel-{memory,policy,layers}.c */
void vbc_add_limit_tests(void);
void vbc_add_memory_tests(void);
void vbc_add_policy_tests(void);
void vbc_add_layer_tests(void);

#endif
