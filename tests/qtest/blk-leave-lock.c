/*
 * Tests of disks that are left while requests hang: the lock on the image
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "blk-leave-test.h"
#include "gate-patience.h"
#include "hold-fs.h"

/* QEMU's lock on a file: this byte, if it has the permission to write */
#define LOCK_BYTE_WRITE 101

static bool is_locked(int fd)
{
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_BYTE_WRITE,
        .l_len = 1,
    };

    g_assert_cmpint(fcntl(fd, F_OFD_GETLK, &lock), ==, 0);
    return lock.l_type != F_UNLCK;
}

/* Nobody else can open the image for writing before the last write landed */
static void test_lock(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    HoldFs *fs = hold_fs_new(VBC_DISK_SIZE);
    g_autofree char *drive = NULL;
    VbcReq r = {
        .type = VIRTIO_BLK_T_OUT, .tag = 1, .sector = 64, .len = 4096,
        .fill = 1,
    };
    bool locked;
    Vbc *v;
    int fd;

    if (!fs) {
        return;
    }
    drive = g_strdup_printf("driver=file,filename=%s", hold_fs_path(fs));
    opts.drive_all = drive;
    opts.image = hold_fs_path(fs);
    opts.node = true;
    v = vbc_start(&opts);
    fd = open(v->image, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    vbc_write(v, 64, 4096, 2);
    g_assert_true(is_locked(fd));

    hold_fs_hold(fs, true);
    vbc_send_all(v, &r, 1);
    vbc_cancel_req(v, &r);
    leave_unplug(v, "vblk", VBC_SLOT);
    locked = is_locked(fd);
    hold_fs_hold(fs, false);    /* first: what fails must not hang */
    g_assert_true(locked);
    gate_wait_no_orphan(v->qts);
    g_assert_false(is_locked(fd));
    vbc_check_disk(v, 64, 4096, 1);

    close(fd);
    vbc_abandon(v);
    hold_fs_free(fs);
}

void leave_add_lock_tests(void)
{
    vbc_add_test("leave/lock", VBC_SETUP_PLAIN | VBC_SETUP_IOTHREADS,
                 test_lock);
}
