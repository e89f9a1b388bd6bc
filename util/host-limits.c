/*
 * What the host lets this process have
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#ifdef CONFIG_POSIX
#include <sys/resource.h>
#endif
#ifdef CONFIG_LINUX
#include <malloc.h>
#endif
#include "qemu/cutils.h"
#include "block/host-limits.h"

#ifdef CONFIG_LINUX
/* Returns: what @dir's file @name says, or UINT64_MAX if it sets no limit. */
static uint64_t cgroup_read(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autofree char *text = NULL;
    uint64_t value;

    if (!g_file_get_contents(path, &text, NULL, NULL) ||
        qemu_strtou64(g_strchomp(text), NULL, 10, &value) < 0) {
        return UINT64_MAX;
    }
    return value;
}

/* Returns: what is allowed below @root, in @group. */
static uint64_t group_room(const char *root, const char *group,
                           const char *max_name, const char *now_name)
{
    g_autofree char *dir = g_build_filename(root, group, NULL);
    uint64_t room = UINT64_MAX;

    /* Each group above it can have a limit, too. */
    while (strlen(dir) >= strlen(root)) {
        uint64_t max = cgroup_read(dir, max_name);
        uint64_t now = now_name ? cgroup_read(dir, now_name) : 0;

        if (max != UINT64_MAX && now != UINT64_MAX) {
            room = MIN(room, max - MIN(max, now));
        }
        *strrchr(dir, '/') = '\0';
    }
    return room;
}

uint64_t host_cgroup_room(const char *controller, const char *max,
                          const char *now)
{
    g_autofree char *own = g_build_filename("/sys/fs/cgroup", controller, NULL);
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    uint64_t room = UINT64_MAX;

    if (!g_file_get_contents("/proc/self/cgroup", &text, NULL, NULL)) {
        return UINT64_MAX;
    }
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        g_auto(GStrv) part = g_strsplit(*line, ":", 3);

        /* Hierarchy, its controllers, the group there */
        if (g_strv_length(part) != 3) {
            continue;
        }
        if (g_str_equal(part[1], controller)) {
            room = MIN(room, group_room(own, part[2], max, now));
        } else if (g_str_equal(part[1], "")) {
            room = MIN(room, group_room("/sys/fs/cgroup", part[2], max, now));
        }
    }
    return room;
}
#else
uint64_t host_cgroup_room(const char *controller, const char *max,
                          const char *now)
{
    return UINT64_MAX;
}
#endif

#ifdef CONFIG_POSIX
bool host_limits_addresses(void)
{
    static gsize known;     /* 1: there is no limit, 2: there is one */
    struct rlimit limit;

    if (g_once_init_enter(&known)) {
        bool any = getrlimit(RLIMIT_AS, &limit) == 0 &&
                   limit.rlim_cur != RLIM_INFINITY;

#ifdef M_ARENA_MAX
        if (any) {
            /* Else each of some threads takes 64 MiB of it, and uses little */
            mallopt(M_ARENA_MAX, 1);
        }
#endif
        g_once_init_leave(&known, any ? 2 : 1);
    }
    return known == 2;
}

/* What malloc() and others take in passing is not known but to the kernel */
bool host_has_addresses(size_t bytes)
{
    void *p;

    if (!host_limits_addresses()) {
        return true;
    }
    p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return false;
    }
    munmap(p, bytes);
    return true;
}
#else
bool host_limits_addresses(void)
{
    return false;
}

bool host_has_addresses(size_t bytes)
{
    return true;
}
#endif
