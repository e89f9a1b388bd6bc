/*
 * The figures of a device with cancel= as a QOM property
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_BLOCK_CANCEL_STATS_H
#define HW_BLOCK_CANCEL_STATS_H

#include "qom/object.h"

/*
 * cancel_stats_class_init:
 * @klass: of devices that have a BlockBackend
 *
 * Give them the property "cancel-stats", of type BlockHungStats.
 */
void cancel_stats_class_init(ObjectClass *klass);

#endif /* HW_BLOCK_CANCEL_STATS_H */
