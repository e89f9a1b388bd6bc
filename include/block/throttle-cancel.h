/*
 * A request can leave the throttle queue
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BLOCK_THROTTLE_CANCEL_H
#define BLOCK_THROTTLE_CANCEL_H

#include "block/throttle-groups.h"

/*
 * throttle_group_co_intercept:
 * @canceled: if *@canceled is true once the turn of the request has come, it
 *            uses up nothing of the group's limits; NULL: never
 *
 * As throttle_group_co_io_limits_intercept(), for a request that can be
 * cancelled.
 */
void coroutine_fn throttle_group_co_intercept(ThrottleGroupMember *tgm,
                                              int64_t bytes,
                                              ThrottleDirection direction,
                                              const bool *canceled);

/*
 * throttle_group_co_remove:
 * @co: waits in throttle_group_co_intercept()
 *
 * Take it out of the queue.
 *
 * Context: the AioContext of @co.
 * Returns: true if it was there: then the caller must wake it.  Else its turn
 * had come already.
 */
bool throttle_group_co_remove(ThrottleGroupMember *tgm, Coroutine *co,
                              ThrottleDirection direction);

#endif
