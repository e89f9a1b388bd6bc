/*
 * What the tests of scsi-hd's cancel=on stand on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The machine, its rings and its storage are those of the tests of virtio-blk
 * (virtio-blk-cancel-lib.h); the device in it is a virtio-scsi HBA with two
 * logical units.  Both are on one image, each in a half of its own.
 */

#ifndef TESTS_QTEST_VIRTIO_SCSI_CANCEL_LIB_H
#define TESTS_QTEST_VIRTIO_SCSI_CANCEL_LIB_H

#include "virtio-blk-cancel-lib.h"

/* The wire, in numbers, to which the tests hold the device */
#define VSD_S_OK                    0   /* also: function complete */
#define VSD_S_ABORTED               2
#define VSD_S_RESET                 4
#define VSD_S_FUNCTION_SUCCEEDED    10
#define VSD_S_FUNCTION_REJECTED     11
#define VSD_S_INCORRECT_LUN         12

#define VSD_TMF_ABORT_TASK          0
#define VSD_TMF_ABORT_TASK_SET      1
#define VSD_TMF_CLEAR_TASK_SET      3
#define VSD_TMF_I_T_NEXUS_RESET     4
#define VSD_TMF_LUN_RESET           5
#define VSD_TMF_QUERY_TASK          6

#define VSD_GOOD                    0
#define VSD_CHECK_CONDITION         2

#define VSD_CONTROL                 0   /* virtqueues */
#define VSD_FIRST                   2   /* for commands */
#define VSD_LUNS                    2
#define VSD_HANGING                 12
#define VSD_LEN                     4096
#define VSD_HALF                    (VBC_DISK_SIZE / VBC_SECTOR / 2)

typedef struct VsdOptions {
    const VbcOptions *base;     /* queues and IOThreads */
    const char *disk;           /* more of the disks' JSON, or NULL */
    const char *drive_all;      /* for LUN 0, then the only one; %s: image */
    const char *args;           /* more arguments, or NULL */
    bool off;                   /* no cancel=on */
    bool qcow2;                 /* LUN 0 is a new image, and the only one */
    bool slow;                  /* the same, and as in VbcOptions */
} VsdOptions;

typedef struct Vsd {
    Vbc *v;
    char *image;
    unsigned int num_luns;
} Vsd;

typedef struct VsdCmd {
    /* Set by the test; of @r: sector, len, fill, queue, direction */
    VbcReq r;
    unsigned int lun;
    uint64_t tag;
    uint8_t cdb[16];

    /* The result, if r.status, the response, is VSD_S_OK */
    uint8_t status;
    uint8_t sense_key;
} VsdCmd;

typedef struct VsdTmf {
    VbcReq r;                   /* its status is the response */
    uint32_t subtype;
    unsigned int lun;
    uint64_t tag;
} VsdTmf;

/* As vbc_start(); the unit attentions after power-on are over. */
Vsd *vsd_start(const VsdOptions *opts);
void vsd_stop(Vsd *s);
void vsd_abandon(Vsd *s);

/* Commands; sectors are of the disk image.  More of the CDB may be changed. */
VsdCmd vsd_read(unsigned int lun, uint64_t tag, uint64_t sector, uint32_t len);
VsdCmd vsd_write(unsigned int lun, uint64_t tag, uint64_t sector, uint32_t len,
                 int fill);

/* One without data, on queue s->v->q */
VsdCmd vsd_plain(Vsd *s, unsigned int lun, uint8_t opcode);

void vsd_add(Vsd *s, VsdCmd *c);
void vsd_send(Vsd *s, VsdCmd *c);

/* Wait for a command; check its response, or its status. */
void vsd_expect_response(Vsd *s, VsdCmd *c, uint8_t response);
void vsd_expect(Vsd *s, VsdCmd *c, uint8_t status);

/* Send, wait, check the status. */
void vsd_do(Vsd *s, VsdCmd *c, uint8_t status);

/* Wait until the device has seen everything that was sent on any queue. */
void vsd_sync(Vsd *s);

/*
 * Hold the storage and send VSD_HANGING commands, @c, of VSD_LEN bytes to both
 * disks on all queues.
 */
void vsd_hang(Vsd *s, VsdCmd *c);

/* Clear the unit attention of each logical unit, which must be there. */
void vsd_expect_attention(Vsd *s);

void vsd_tmf_add(Vsd *s, VsdTmf *t);
void vsd_tmf_send(Vsd *s, VsdTmf *t);

/* Send, wait, check the response. */
void vsd_tmf(Vsd *s, uint32_t subtype, unsigned int lun, uint64_t tag,
             uint8_t response);

/* Abort @c, which must come back aborted and before the function. */
void vsd_abort(Vsd *s, VsdCmd *c);

/* Register a test for an HBA in the main loop, and in two IOThreads. */
void vsd_add_test(const char *path, void (*fn)(const void *base));

/* virtio-scsi-cancel-{reset,unplug,own}.c */
void vsd_add_reset_tests(void);
void vsd_add_unplug_tests(void);
void vsd_add_own_tests(void);

#endif
