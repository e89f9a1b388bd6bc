/*
 * The figures of a device with detach=on as a QOM property
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_BLOCK_DETACH_STATS_H
#define HW_BLOCK_DETACH_STATS_H

#include "qom/object.h"

/*
 * detach_stats_class_init:
 * @klass: of devices that have a BlockBackend
 *
 * Give them the property "detach-stats", of type BlockDetachStats.
 */
void detach_stats_class_init(ObjectClass *klass);

#endif /* HW_BLOCK_DETACH_STATS_H */
