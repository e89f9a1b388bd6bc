/*
 * What the tests of NVMe commands that are taken back stand on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An Nvd is one QEMU with one NVMe controller, driven register by register, and
 * namespaces on storage that can be made to hang.  An NvdCmd is one command.
 * Every completion is checked against what is outstanding, so that each test
 * also tests "exactly once".
 */

#ifndef TESTS_QTEST_NVME_CANCEL_LIB_H
#define TESTS_QTEST_NVME_CANCEL_LIB_H

#include "libqtest.h"
#include "libqos/libqos-malloc.h"
#include "libqos/pci.h"
#include "hold-storage.h"

/* From the specification, in numbers: the tests hold the device to them. */
#define NVD_REG_CC              0x14
#define NVD_REG_CSTS            0x1c
#define NVD_REG_AQA             0x24
#define NVD_REG_ASQ             0x28
#define NVD_REG_ACQ             0x30
#define NVD_REG_CMBMSC          0x50
#define NVD_REG_DOORBELL        0x1000
#define NVD_CC_EN               0x00460001  /* entries of 64 and 16 bytes */
#define NVD_CC_CSS_ALL          0x60        /* all command sets */
#define NVD_CC_SHN_NORMAL       0x4000
#define NVD_CSTS_RDY            1
#define NVD_CSTS_SHST           0xc
#define NVD_CSTS_SHST_BUSY      0x4
#define NVD_CSTS_SHST_DONE      0x8

#define NVD_ADM_DELETE_SQ       0x00
#define NVD_ADM_CREATE_SQ       0x01
#define NVD_ADM_DELETE_CQ       0x04
#define NVD_ADM_CREATE_CQ       0x05
#define NVD_ADM_IDENTIFY        0x06
#define NVD_ADM_ABORT           0x08
#define NVD_ADM_SET_FEATURES    0x09
#define NVD_ADM_GET_FEATURES    0x0a
#define NVD_ADM_ASYNC_EVENT     0x0c
#define NVD_ADM_FORMAT          0x80
#define NVD_FEAT_WRITE_CACHE    0x06

#define NVD_FLUSH               0x00
#define NVD_WRITE               0x01
#define NVD_READ                0x02
#define NVD_COMPARE             0x05
#define NVD_WRITE_ZEROES        0x08
#define NVD_DSM                 0x09
#define NVD_VERIFY              0x0c
#define NVD_COPY                0x19
#define NVD_ZONE_SEND           0x79
#define NVD_ZONE_RECEIVE        0x7a
#define NVD_ZONE_APPEND         0x7d

#define NVD_OK                  0x000
#define NVD_ABORTED             0x007   /* Command Abort Requested */
#define NVD_SQ_DELETED          0x008   /* Aborted due to SQ Deletion */
#define NVD_FORMAT_IN_PROGRESS  0x084
#define NVD_INVALID_QUEUE       0x4101
#define NVD_INVALID_FIELD       0x4002  /* Do Not Retry */
#define NVD_GUARD_ERROR         0x282
#define NVD_COMPARE_FAILED      0x4285

#define NVD_BLOCK               512
#define NVD_DISK_SIZE           (4 * 1024 * 1024)
#define NVD_QUEUES              3       /* the first is for admin commands */
#define NVD_QUEUE_SIZE          64
#define NVD_ALL_NS              0xffffffffu
#define NVD_SLOT                4       /* of the PCI bus */
#define NVD_BEHIND_PORT         0x100   /* bus 1, slot 0, function 0 */
#define NVD_ZONE                2048    /* blocks */
#define NVD_POISON              0xd1    /* buffers nobody may touch */

typedef struct NvdOptions {
    bool off;                   /* cancel=off */
    bool subsystem;             /* one that controllers share */
    bool single;                /* only the first namespace */
    bool port;                  /* behind a PCIe root port */
    bool unplug;                /* machine pc, from which it can be unplugged */
    bool own;                   /* the controller has the first disk itself */
    const char *controller;     /* more properties of the controller, or NULL */
    const char *ns;             /* more properties of each namespace, or NULL */
    const char *drive;          /* of the first namespace, or NULL */
    bool zoned;                 /* namespaces, with zones of NVD_ZONE blocks */
    unsigned int metadata;      /* bytes of it behind each block */
    unsigned int prinfo;        /* of reads and writes */
    bool keep;                  /* deallocation does not reach the storage */
    bool zeroes;                /* all reads get them, without the storage */
    unsigned int admin_entries; /* of the admin queue; 0: NVD_QUEUE_SIZE */
} NvdOptions;

#define NVD_METADATA    .ns = ",ms=8,mset=1", .metadata = 8

/*
 * The controller makes it, checks it (guard and reference tag) and strips it.
 * What was never written passes only if it has been found to be zeroes.
 */
#define NVD_PROTECTION  .ns = ",ms=8,mset=1,pi=1", .prinfo = 13

typedef struct NvdCmd {
    /* Set by the test */
    uint8_t opcode;
    unsigned int queue;
    uint32_t nsid;              /* 0 means 1, except for admin commands */
    uint64_t slba;
    unsigned int blocks;        /* 0: one */
    int fill;                   /* what the data buffer holds before */
    uint32_t cdw10;             /* of admin commands */
    uint32_t cdw11;
    uint32_t zone_action;
    uint64_t at;                /* where the data is, not filled; 0: anywhere */

    /* Set by nvd_add() */
    uint16_t cid;
    uint64_t data;
    uint32_t data_len;

    /* The result: reset by nvd_add(), set by nvd_reap() */
    unsigned int order;         /* completed as the n-th of all, 0: not yet */
    uint16_t status;            /* without the phase bit */
    uint32_t result;
} NvdCmd;

typedef struct NvdQueue {
    uint64_t sq;
    uint64_t cq;
    unsigned int entries;
    unsigned int sq_tail;
    unsigned int cq_head;
    bool phase;
    NvdCmd *owner[NVD_QUEUE_SIZE];      /* outstanding, by CID */
} NvdQueue;

typedef struct Nvd {
    NvdOptions opts;
    HoldStorage *storage;
    QTestState *qts;
    QGuestAllocator alloc;
    QPCIBus *bus;
    QPCIDevice *dev;
    QPCIBar bar;
    NvdQueue queue[NVD_QUEUES];
    unsigned int completed;     /* completions seen */
} Nvd;

/*
 * nvd_start:
 *
 * Start the storage, QEMU with two namespaces, and the controller with its
 * queues.  Returns: NULL if the test was skipped.
 */
Nvd *nvd_start(const NvdOptions *opts);

/* Let go what hangs; check that nothing is left; end everything. */
void nvd_stop(Nvd *v);

/* End everything, without the device, which is gone.  Nothing may hang. */
void nvd_abandon(Nvd *v);

/* Set up the PCI device, for instance after a reset. */
void nvd_find_device(Nvd *v);

/*
 * Enable the controller and create the queues, all of them new; what was
 * outstanding is forgotten.
 */
void nvd_enable(Nvd *v);

/* CC.EN=0 */
void nvd_disable(Nvd *v);

void nvd_create_queue(Nvd *v, unsigned int queue);

uint32_t nvd_readl(Nvd *v, unsigned int reg);
void nvd_writel(Nvd *v, unsigned int reg, uint32_t value);

/* Wait until these bits of CSTS have this value. */
void nvd_wait_csts(Nvd *v, uint32_t mask, uint32_t value);

/* Put @c into its queue; the controller may see it from nvd_ring() on. */
void nvd_add(Nvd *v, NvdCmd *c);
void nvd_ring(Nvd *v, unsigned int queue);
void nvd_send(Nvd *v, NvdCmd *c);

/*
 * Ring for queues 0 and 1 at once: the controller sees the commands of both
 * before anything that any of them has asked for has been done.
 */
void nvd_ring_both(Nvd *v);

/* Look into all completion queues once. */
void nvd_reap(Nvd *v);

/* Wait until @c has ended, and check its status. */
void nvd_expect(Nvd *v, NvdCmd *c, uint16_t status);

/* Send @c, wait, check its status. */
void nvd_do(Nvd *v, NvdCmd *c, uint16_t status);

void nvd_expect_pending(Nvd *v, NvdCmd *c);

/* Wait until the controller has seen everything that was sent. */
void nvd_sync(Nvd *v);

/* Asynchronous Event Requests, which leave the admin queue when aborted */
void nvd_send_events(Nvd *v, NvdCmd *event, unsigned int num);
void nvd_abort_events(Nvd *v, NvdCmd *event, unsigned int num);

/* Abort that command.  Returns: bit 0 of the result, 0 for "aborted" */
unsigned int nvd_abort_cid(Nvd *v, unsigned int queue, uint16_t cid);

/* Abort @c, which must end as aborted. */
void nvd_abort(Nvd *v, NvdCmd *c);

/* Write, and read and compare; each must succeed. */
void nvd_write(Nvd *v, uint32_t nsid, uint64_t slba, unsigned int blocks,
               int fill);
void nvd_check_read(Nvd *v, uint32_t nsid, uint64_t slba, unsigned int blocks,
                    int fill);

/* The host uses the buffer of @c for something else; nobody touched it. */
void nvd_reuse(Nvd *v, NvdCmd *c);
void nvd_check_reused(Nvd *v, NvdCmd *c);

/* Fill, or check, the data buffer of @c. */
void nvd_fill(Nvd *v, NvdCmd *c, int fill);
void nvd_check_data(Nvd *v, NvdCmd *c, int fill);

/* Another than the controller writes to the image of namespace @nsid. */
void nvd_spoil_disk(Nvd *v, uint32_t nsid, uint64_t slba);

/*
 * Check the image of namespace @nsid.  With metadata read it instead: there
 * blocks are not where the tests expect them.
 */
void nvd_check_disk(Nvd *v, uint32_t nsid, uint64_t slba, unsigned int blocks,
                    int fill);

static inline void nvd_hold(Nvd *v)
{
    hold_storage_hold(v->storage);
}

static inline void nvd_release(Nvd *v)
{
    hold_storage_release(v->storage);
}

/* nvme-cancel-{reset,status,vf,random}.c */
void nvd_add_reset_tests(void);
void nvd_add_status_tests(void);
void nvd_add_vf_tests(void);
void nvd_add_random_tests(void);

#endif
