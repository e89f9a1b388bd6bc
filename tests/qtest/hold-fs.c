/*
 * A file for qtests that can be made to hang
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include "hang-watch.h"
#include "hold-fs.h"
#include "libqtest.h"

#define PATIENCE_US     (60 * G_USEC_PER_SEC)

struct HoldFs {
    char *dir;
    char *path;                 /* of the file */
    int control;
    pid_t pid;
    HangWatch *watch;           /* hold_fs_stop() */
};

/* The program, or NULL after the test was skipped */
static const char *find_program(void)
{
    const char *program = getenv("QTEST_HOLD_FS");

    if (!program || access(program, X_OK)) {
        g_test_skip("needs hold-fs: see QTEST_HOLD_FS");
        return NULL;
    }
    if (access("/dev/fuse", R_OK | W_OK)) {
        g_test_skip("needs /dev/fuse");
        return NULL;
    }
    return program;
}

static void tell(HoldFs *fs, const char *command)
{
    char answer[64] = "";

    g_assert_cmpint(send(fs->control, command, strlen(command), MSG_NOSIGNAL),
                    ==, strlen(command));
    g_assert_cmpint(recv(fs->control, answer, sizeof(answer) - 1, 0), >, 0);
    g_assert_cmpstr(answer, ==, "ok\n");
}

/* Let go, and unmount: nothing may be left that waits for it */
static void end_server(void *opaque)
{
    HoldFs *fs = opaque;

    close(fs->control);
    kill(fs->pid, SIGTERM);
    kill(fs->pid, SIGCONT);
}

static void connect_control(HoldFs *fs)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    gint64 end = g_get_monotonic_time() + PATIENCE_US;

    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/control", fs->dir);
    fs->control = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    while (connect(fs->control, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
           access(fs->path, R_OK)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_assert_cmpint(waitpid(fs->pid, NULL, WNOHANG), ==, 0);
        g_usleep(1000);
    }
}

static char *make_backing(HoldFs *fs, uint64_t size)
{
    char *path = g_strdup_printf("%s/backing", fs->dir);
    int fd = open(path, O_RDWR | O_CREAT, 0600);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, size), ==, 0);
    close(fd);
    return path;
}

HoldFs *hold_fs_new(uint64_t size)
{
    const char *program = find_program();
    g_autofree char *backing = NULL;
    g_autofree char *mount = NULL;
    g_autofree char *control = NULL;
    HoldFs *fs;

    if (!program) {
        return NULL;
    }
    fs = g_new0(HoldFs, 1);
    fs->dir = g_dir_make_tmp("qtest-hold-fs.XXXXXX", NULL);
    g_assert_nonnull(fs->dir);
    backing = make_backing(fs, size);
    mount = g_strdup_printf("%s/mnt", fs->dir);
    control = g_strdup_printf("%s/control", fs->dir);
    fs->path = g_strdup_printf("%s/disk", mount);
    g_assert_cmpint(mkdir(mount, 0700), ==, 0);

    fs->pid = fork();
    g_assert_cmpint(fs->pid, >=, 0);
    if (!fs->pid) {
        prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0);
        execl(program, program, backing, mount, control, NULL);
        _exit(1);
    }
    connect_control(fs);
    qtest_add_abrt_handler(end_server, fs);
    return fs;
}

void hold_fs_free(HoldFs *fs)
{
    g_autofree char *mount = g_strdup_printf("%s/mnt", fs->dir);
    g_autofree char *backing = g_strdup_printf("%s/backing", fs->dir);
    g_autofree char *control = g_strdup_printf("%s/control", fs->dir);
    int status;

    qtest_remove_abrt_handler(fs);
    end_server(fs);
    g_assert_cmpint(waitpid(fs->pid, &status, 0), ==, fs->pid);
    unlink(control);
    unlink(backing);
    rmdir(mount);
    rmdir(fs->dir);
    g_free(fs->dir);
    g_free(fs->path);
    g_free(fs);
}

const char *hold_fs_path(HoldFs *fs)
{
    return fs->path;
}

void hold_fs_hold(HoldFs *fs, bool hold)
{
    tell(fs, hold ? "hold\n" : "release\n");
}

static void let_go(void *opaque)
{
    HoldFs *fs = opaque;

    kill(fs->pid, SIGCONT);
}

void hold_fs_stop(HoldFs *fs)
{
    int status;

    g_assert_cmpint(kill(fs->pid, SIGSTOP), ==, 0);
    g_assert_cmpint(waitpid(fs->pid, &status, WUNTRACED), ==, fs->pid);
    g_assert_true(WIFSTOPPED(status));
    fs->watch = hang_watch_begin(PATIENCE_US, let_go, fs);
}

void hold_fs_cont(HoldFs *fs)
{
    hang_watch_end(g_steal_pointer(&fs->watch));
    let_go(fs);
}
