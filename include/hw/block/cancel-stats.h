/*
 * Devices with cancel=: their figures as a QOM property; what the others mean
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_BLOCK_CANCEL_STATS_H
#define HW_BLOCK_CANCEL_STATS_H

#include "qom/object.h"

/*
 * cancel_class_init:
 * @klass: of devices that have a BlockBackend; has been given its properties
 *
 * Give them the property "cancel-stats", of type BlockHungStats; and say what
 * "cancel", "cancel-budget" and "cancel-after" are, for "-device X,help" and
 * device-list-properties.
 */
void cancel_class_init(ObjectClass *klass);

#endif /* HW_BLOCK_CANCEL_STATS_H */
