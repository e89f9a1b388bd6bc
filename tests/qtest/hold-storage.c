/*
 * Storage for qtests that can be made to hang
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/prctl.h>
#include <sys/wait.h>
#include "qemu/atomic.h"
#include "libqtest.h"
#include "hold-storage.h"

static char *daemon_binary(void)
{
    const char *named = getenv("QTEST_QEMU_STORAGE_DAEMON_BINARY");
    g_autofree char *dir = NULL;
    g_autofree char *path = NULL;

    if (named) {
        return g_strdup(named);
    }
    dir = g_path_get_dirname(getenv("QTEST_QEMU_BINARY") ?: "");
    path = g_build_filename(dir, "storage-daemon", "qemu-storage-daemon", NULL);
    return access(path, X_OK) ? NULL : g_steal_pointer(&path);
}

static void run_daemon(HoldStorage *s, const char *binary, int listener)
{
    g_autofree char *server = g_strdup_printf("addr.type=fd,addr.str=%d",
                                              listener);
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    int null = open("/dev/null", O_RDWR);

    g_ptr_array_add(argv, g_strdup(binary));
    g_ptr_array_add(argv, g_strdup("--nbd-server"));
    g_ptr_array_add(argv, server);
    for (unsigned int i = 0; i < HOLD_STORAGE_DISKS; i++) {
        g_ptr_array_add(argv, g_strdup("--blockdev"));
        g_ptr_array_add(argv, g_strdup_printf(
            "file,node-name=disk%u,filename=%s,discard=unmap", i, s->image[i]));
        g_ptr_array_add(argv, g_strdup("--export"));
        g_ptr_array_add(argv, g_strdup_printf(
            "nbd,id=export%u,node-name=disk%u,name=disk%u,writable=on",
            i, i, i));
    }
    g_ptr_array_add(argv, NULL);

    /* The test's output is for its harness */
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    fcntl(listener, F_SETFD, 0);
    execv(binary, (char **)argv->pdata);
    _exit(1);
}

HoldStorage *hold_storage_start(size_t size)
{
    g_autofree char *binary = daemon_binary();
    HoldStorage *s;
    int listener;

    if (!binary) {
        g_test_skip("needs qemu-storage-daemon");
        return NULL;
    }

    s = g_new0(HoldStorage, 1);
    for (unsigned int i = 0; i < HOLD_STORAGE_DISKS; i++) {
        int fd = g_file_open_tmp("qtest-hold.XXXXXX", &s->image[i], NULL);

        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(ftruncate(fd, size), ==, 0);
        close(fd);
    }
    s->socket = g_strdup_printf("%s.sock", s->image[0]);
    listener = qtest_socket_server(s->socket);

    s->server = fork();
    g_assert_cmpint(s->server, >=, 0);
    if (!s->server) {
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        run_daemon(s, binary, listener);
    }
    close(listener);
    return s;
}

void hold_storage_kill(HoldStorage *s)
{
    kill(s->server, SIGKILL);
    unlink(s->socket);
    for (unsigned int i = 0; i < HOLD_STORAGE_DISKS; i++) {
        unlink(s->image[i]);
    }
}

void hold_storage_stop(HoldStorage *s)
{
    hold_storage_kill(s);
    waitpid(s->server, NULL, 0);
    for (unsigned int i = 0; i < HOLD_STORAGE_DISKS; i++) {
        g_free(s->image[i]);
    }
    g_free(s->socket);
    g_free(s);
}

char *hold_storage_drive(HoldStorage *s, unsigned int disk)
{
    return g_strdup_printf("format=raw,discard=unmap,file.driver=nbd,"
                           "file.server.type=unix,file.server.path=%s,"
                           "file.export=disk%u", s->socket, disk);
}

void hold_storage_hold(HoldStorage *s)
{
    int wstatus;

    if (qatomic_xchg(&s->held, true)) {
        return;
    }
    kill(s->server, SIGSTOP);
    g_assert_cmpint(waitpid(s->server, &wstatus, WUNTRACED), ==, s->server);
    g_assert_true(WIFSTOPPED(wstatus));
}

void hold_storage_release(HoldStorage *s)
{
    qatomic_set(&s->held, false);
    kill(s->server, SIGCONT);
}

static void *releaser(void *opaque)
{
    /* No order rests on this: the longer, the more there is to wait for */
    g_usleep(50 * 1000);
    hold_storage_release(opaque);
    return NULL;
}

GThread *hold_storage_release_soon(HoldStorage *s)
{
    return g_thread_new("releaser", releaser, s);
}

static void watch_let_go(void *opaque)
{
    hold_storage_release(opaque);
}

void hold_storage_watch_begin(HoldStorage *s)
{
    s->watch = hang_watch_begin(HOLD_STORAGE_PATIENCE_US, watch_let_go, s);
}

void hold_storage_watch_end(HoldStorage *s)
{
    hang_watch_end(g_steal_pointer(&s->watch));
}
