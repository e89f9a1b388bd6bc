/*
 * What the host lets this process have
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BLOCK_HOST_LIMITS_H
#define BLOCK_HOST_LIMITS_H

/*
 * host_cgroup_room:
 * @controller: "pids" or "memory"
 * @max: the file of a control group that has its limit
 * @now: the one that has what is used of it, or NULL
 *
 * Context: any thread.  Reads files.
 * Returns: how much the control groups of this process still allow, or all that
 * they allow; UINT64_MAX if they set no such limit, or on a host without any.
 */
uint64_t host_cgroup_room(const char *controller, const char *max,
                          const char *now);

/*
 * host_limits_addresses:
 *
 * Whether this process' address space has a limit (RLIMIT_AS).  Where it has
 * none when this is first called it is taken to have none ever.
 *
 * Context: any thread.
 */
bool host_limits_addresses(void);

/*
 * host_has_addresses:
 *
 * Context: any thread.
 * Returns: whether there are @bytes of address space to be had, as far as a
 * limit is concerned.  Without one this costs next to nothing.
 */
bool host_has_addresses(size_t bytes);

#endif /* BLOCK_HOST_LIMITS_H */
