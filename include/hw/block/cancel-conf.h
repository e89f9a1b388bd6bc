/*
 * Devices with cancel=: their properties
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_BLOCK_CANCEL_CONF_H
#define HW_BLOCK_CANCEL_CONF_H

#include "block/blk-cancel.h"
#include "hw/qdev-properties.h"
#include "qapi/qapi-types-block-cancel.h"

/* Set once */
typedef struct CancelConf {
    VirtioBlkCancel mode;       /* of virtio-blk */
    bool on;                    /* of other devices */
    uint64_t budget;            /* bytes */
    uint32_t after_ms;
} CancelConf;

/* Set once: of a device whose requests may run on the guest's memory */
typedef struct CancelLendConf {
    OnOffAuto zero_copy;
    char *userfaultfd;          /* a path, or NULL */
} CancelLendConf;

#define DEFINE_PROP_CANCEL(_state, _conf)                               \
    DEFINE_PROP_BOOL("cancel", _state, _conf.on, false)

#define DEFINE_PROP_CANCEL_BUDGET(_state, _conf)                        \
    DEFINE_PROP_SIZE("cancel-budget", _state, _conf.budget,             \
                     BLK_CANCEL_DEFAULT_BUDGET)

#define DEFINE_PROP_CANCEL_AFTER(_state, _conf)                         \
    DEFINE_PROP_UINT32("cancel-after", _state, _conf.after_ms, 0)

#define DEFINE_PROP_CANCEL_ZERO_COPY(_state, _conf)                     \
    DEFINE_PROP_ON_OFF_AUTO("cancel-zero-copy", _state,                 \
                            _conf.zero_copy, ON_OFF_AUTO_OFF)

#define DEFINE_PROP_CANCEL_USERFAULTFD(_state, _conf)                   \
    DEFINE_PROP_STRING("cancel-userfaultfd", _state, _conf.userfaultfd)

#endif /* HW_BLOCK_CANCEL_CONF_H */
