/*
 * A FUSE file system with one file, "disk", backed by a real file, that can be
 * told to hold requests: they arrive here and are not answered until released.
 * For the processes on the host this is storage that hangs, close up.  It can
 * be slow or fail as well, also in a part of the file.
 *
 *   hold-fs BACKING-FILE MOUNTPOINT CONTROL-SOCKET
 *
 * Runs in the foreground; SIGTERM unmounts and ends it.  The control socket
 * takes one-line commands and answers each with one line:
 *
 *   hold      hold reads, writes and fsyncs from now on     -> ok
 *   hold-all  hold everything else as well                  -> ok
 *   release   let go of everything that is held             -> ok
 *   held      how many requests are held just now           -> NUMBER
 *   rule OPS FROM LENGTH hold|delay|fail NUMBER             -> ok
 *             of the requests OPS (r, w, f for fsync, d for a punched hole, z
 *             for a zeroed range) that touch this range hold each, let it take
 *             NUMBER ms, or fail it with errno NUMBER.  The first of up to
 *             eight rules that fits counts, until the next release.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 312
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/*
 * More than any test has outstanding: libfuse's threads must not be what a
 * test waits for.
 */
#define MAX_REQUESTS 512

/*
 * The kernel's own default.  Who submits more asynchronous requests than this
 * is blocked in the middle of it, as on a device that has run out of tags.
 */
#define MAX_BACKGROUND 12

static const char disk_path[] = "/disk";

static int backing = -1;            /* set once, before the threads start */
static int listener = -1;           /* set once, before the threads start */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static bool holding;                /* under lock */
static bool holding_all;            /* under lock; then @holding, too */
static unsigned held;               /* under lock */

enum action { HOLD, DELAY, FAIL };

static struct rule {
    char ops[8];
    off_t from, length;
    enum action action;
    int number;                     /* ms, or an errno */
} rules[8];                         /* under lock */
static unsigned nr_rules;           /* under lock */

/* Called with lock held.  An fsync touches every range. */
static const struct rule *find_rule(char op, off_t offset, off_t length)
{
    for (unsigned i = 0; i < nr_rules; i++) {
        const struct rule *rule = &rules[i];

        if (strchr(rule->ops, op) &&
            (op == 'f' || (offset < rule->from + rule->length &&
                           rule->from < offset + length))) {
            return rule;
        }
    }
    return NULL;
}

/* Returns: whether the time has not come.  Waits, with lock given up. */
static bool wait_until(const struct timespec *arrival, int ms)
{
    struct timespec end = *arrival;

    end.tv_sec += ms / 1000;
    end.tv_nsec += ms % 1000 * 1000000L;
    if (end.tv_nsec >= 1000000000L) {
        end.tv_sec++;
        end.tv_nsec -= 1000000000L;
    }
    return pthread_cond_clockwait(&released, &lock, CLOCK_MONOTONIC, &end) !=
           ETIMEDOUT;
}

/*
 * Called at the start of each request; returns when it may be served, with 0 or
 * the negative errno that it is to fail with.
 */
static int gate(char op, off_t offset, off_t length)
{
    const struct rule *rule;
    struct timespec arrival;
    int ret;

    clock_gettime(CLOCK_MONOTONIC, &arrival);
    pthread_mutex_lock(&lock);
    held++;
    for (;;) {
        rule = find_rule(op, offset, length);
        if (holding || (rule && rule->action == HOLD)) {
            pthread_cond_wait(&released, &lock);
        } else if (!rule || rule->action != DELAY ||
                   !wait_until(&arrival, rule->number)) {
            break;
        }
    }
    held--;
    ret = rule && rule->action == FAIL ? -rule->number : 0;
    pthread_mutex_unlock(&lock);
    return ret;
}

/* The same for what is held only when nothing at all is to be served. */
static void gate_all(void)
{
    pthread_mutex_lock(&lock);
    while (holding_all) {
        pthread_cond_wait(&released, &lock);
    }
    pthread_mutex_unlock(&lock);
}

static void *hold_init(struct fuse_conn_info *conn, struct fuse_config *cfg)
{
    conn->max_background = MAX_BACKGROUND;
    conn->congestion_threshold = MAX_BACKGROUND;
    cfg->kernel_cache = 0;
    return NULL;
}

static int hold_getattr(const char *path, struct stat *st,
                        struct fuse_file_info *fi)
{
    gate_all();
    if (!strcmp(path, "/")) {
        *st = (struct stat) { .st_mode = S_IFDIR | 0700, .st_nlink = 2 };
    } else if (strcmp(path, disk_path)) {
        return -ENOENT;
    } else if (fstat(backing, st) < 0) {
        return -errno;
    }
    st->st_uid = getuid();
    st->st_gid = getgid();
    return 0;
}

static int hold_readdir(const char *path, void *buf, fuse_fill_dir_t fill,
                        off_t offset, struct fuse_file_info *fi,
                        enum fuse_readdir_flags flags)
{
    fill(buf, ".", NULL, 0, 0);
    fill(buf, "..", NULL, 0, 0);
    fill(buf, disk_path + 1, NULL, 0, 0);
    return 0;
}

static int hold_open(const char *path, struct fuse_file_info *fi)
{
    char own[32];
    int fd;

    gate_all();
    if (strcmp(path, disk_path)) {
        return -ENOENT;
    }
    /* One for each open, because that is what locks belong to. */
    snprintf(own, sizeof(own), "/proc/self/fd/%d", backing);
    fd = open(own, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    fi->fh = fd;
    /* No page cache in between: each request of the client's arrives here. */
    fi->direct_io = 1;
    return 0;
}

static int hold_flush(const char *path, struct fuse_file_info *fi)
{
    gate_all();
    return 0;
}

static int hold_release(const char *path, struct fuse_file_info *fi)
{
    close(fi->fh);
    return 0;
}

static int hold_lock(const char *path, struct fuse_file_info *fi, int command,
                     struct flock *fl)
{
    gate_all();
    switch (command) {
    case F_GETLK:
        command = F_OFD_GETLK;
        break;
    case F_SETLK:
        command = F_OFD_SETLK;
        break;
    default:
        command = F_OFD_SETLKW;
        break;
    }
    fl->l_pid = 0;
    return fcntl(fi->fh, command, fl) < 0 ? -errno : 0;
}

static int hold_read(const char *path, char *buf, size_t size, off_t offset,
                     struct fuse_file_info *fi)
{
    ssize_t ret = gate('r', offset, size);

    if (ret < 0) {
        return ret;
    }
    ret = pread(backing, buf, size, offset);
    return ret < 0 ? -errno : ret;
}

static int hold_write(const char *path, const char *buf, size_t size,
                      off_t offset, struct fuse_file_info *fi)
{
    ssize_t ret = gate('w', offset, size);

    if (ret < 0) {
        return ret;
    }
    ret = pwrite(backing, buf, size, offset);
    return ret < 0 ? -errno : ret;
}

static int hold_fsync(const char *path, int datasync,
                      struct fuse_file_info *fi)
{
    int ret = gate('f', 0, 0);

    if (ret < 0) {
        return ret;
    }
    return fdatasync(backing) < 0 ? -errno : 0;
}

static int hold_fallocate(const char *path, int mode, off_t offset,
                          off_t length, struct fuse_file_info *fi)
{
    int ret;

    if (!(mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))) {
        return -EOPNOTSUPP;
    }
    ret = gate(mode & FALLOC_FL_PUNCH_HOLE ? 'd' : 'z', offset, length);
    if (ret < 0) {
        return ret;
    }
    return fallocate(backing, mode, offset, length) < 0 ? -errno : 0;
}

static int hold_truncate(const char *path, off_t size,
                         struct fuse_file_info *fi)
{
    gate_all();
    return ftruncate(backing, size) < 0 ? -errno : 0;
}

static const struct fuse_operations operations = {
    .init = hold_init,
    .getattr = hold_getattr,
    .readdir = hold_readdir,
    .open = hold_open,
    .flush = hold_flush,
    .release = hold_release,
    .lock = hold_lock,
    .read = hold_read,
    .write = hold_write,
    .fsync = hold_fsync,
    .fallocate = hold_fallocate,
    .truncate = hold_truncate,
};

/* Called with lock held.  Returns: whether it is a rule, and there is room. */
static bool add_rule(const char *text)
{
    static const char *const actions[] = { "hold", "delay", "fail" };
    long long from, length;
    char name[8];
    struct rule *rule = &rules[nr_rules];

    if (nr_rules == sizeof(rules) / sizeof(rules[0]) ||
        sscanf(text, "rule %7s %lld %lld %7s %d", rule->ops, &from, &length,
               name, &rule->number) != 5) {
        return false;
    }
    rule->from = from;
    rule->length = length;
    for (unsigned i = 0; i < sizeof(actions) / sizeof(actions[0]); i++) {
        if (!strcmp(name, actions[i])) {
            rule->action = i;
            nr_rules++;
            return true;
        }
    }
    return false;
}

static void execute(const char *command, FILE *reply)
{
    pthread_mutex_lock(&lock);
    if (!strcmp(command, "hold\n")) {
        holding = true;
        fprintf(reply, "ok\n");
    } else if (!strcmp(command, "hold-all\n")) {
        holding = holding_all = true;
        fprintf(reply, "ok\n");
    } else if (!strcmp(command, "release\n")) {
        holding = holding_all = false;
        nr_rules = 0;
        pthread_cond_broadcast(&released);
        fprintf(reply, "ok\n");
    } else if (!strcmp(command, "held\n")) {
        fprintf(reply, "%u\n", held);
    } else if (add_rule(command)) {
        fprintf(reply, "ok\n");
    } else {
        fprintf(reply, "unknown command\n");
    }
    pthread_mutex_unlock(&lock);
    fflush(reply);
}

/* Serves one client at a time, for ever. */
static void *control(void *opaque)
{
    char command[64];

    for (;;) {
        int fd = accept(listener, NULL, NULL);
        FILE *in, *out;

        if (fd < 0) {
            continue;
        }
        in = fdopen(fd, "r");
        out = fdopen(dup(fd), "w");
        while (fgets(command, sizeof(command), in)) {
            execute(command, out);
        }
        fclose(out);
        fclose(in);
    }
    return NULL;
}

static int start_control(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    pthread_t thread;

    if (strlen(path) >= sizeof(addr.sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(addr.sun_path, path);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 ||
        bind(listener, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
        listen(listener, 8) < 0) {
        return -1;
    }
    errno = pthread_create(&thread, NULL, control, NULL);
    return errno ? -1 : 0;
}

/* Mounts, serves until told to stop, unmounts.  Returns an exit status. */
static int serve(const char *mountpoint, const char *socket_path)
{
    /* auto_unmount: the mount goes away even if this process is killed. */
    char *argv[] = {
        "hold-fs", "-o", "auto_unmount,fsname=hold-fs,subtype=hold-fs", NULL
    };
    struct fuse_args args = FUSE_ARGS_INIT(3, argv);
    struct fuse_loop_config *config = NULL;
    int ret = 1;
    struct fuse *fuse;

    fuse = fuse_new(&args, &operations, sizeof(operations), NULL);
    if (!fuse) {
        return 1;
    }
    if (fuse_mount(fuse, mountpoint) < 0) {
        goto out_destroy;
    }
    if (fuse_set_signal_handlers(fuse_get_session(fuse)) < 0) {
        goto out_unmount;
    }
    if (start_control(socket_path) < 0) {
        perror(socket_path);
        goto out_handlers;
    }
    config = fuse_loop_cfg_create();
    fuse_loop_cfg_set_max_threads(config, MAX_REQUESTS);
    fuse_loop_cfg_set_idle_threads(config, 16);
    /* A positive value is the signal that ended the loop. */
    ret = fuse_loop_mt(fuse, config) < 0;
    fuse_loop_cfg_destroy(config);

out_handlers:
    fuse_remove_signal_handlers(fuse_get_session(fuse));
out_unmount:
    fuse_unmount(fuse);
out_destroy:
    fuse_destroy(fuse);
    return ret;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: hold-fs BACKING MOUNTPOINT SOCKET\n");
        return 2;
    }
    backing = open(argv[1], O_RDWR | O_CLOEXEC);
    if (backing < 0) {
        perror(argv[1]);
        return 1;
    }
    return serve(argv[2], argv[3]);
}
