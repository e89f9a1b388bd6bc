/*
 * Devices with cancel=: their figures as a QOM property; what the others mean
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

/*
 * cancel_describe_properties:
 * @klass: has been given its properties
 *
 * Say what "cancel", "cancel-budget" and "cancel-after" are, for "-device
 * X,help" and device-list-properties.
 */
void cancel_describe_properties(ObjectClass *klass);

#endif /* HW_BLOCK_CANCEL_STATS_H */
