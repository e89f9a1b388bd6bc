/*
 * Tests of virtio-blk's CANCEL request: zoned storage
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU knows zones only of a block device of the host.  ZONED_DISK names one,
 * of empty sequential zones; what it holds is lost.  A linear device-mapper
 * device on top of it is what QEMU gets: while that is suspended, everything
 * that was sent to it hangs, except for a report, which the kernel refuses.
 * tests/guest/test_zoned.py runs this in a guest that has such a disk.
 */

#include "qemu/osdep.h"
#include <linux/blkzoned.h>
#include <linux/dm-ioctl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include "qemu/atomic.h"
#include "qemu/bswap.h"
#include "virtio-blk-cancel-lib.h"

#define DM_NAME         "virtio-blk-cancel-zoned"
#define ZONES           12              /* that are looked at */
#define LEN             4096
#define SECTORS         (LEN / VBC_SECTOR)
#define TRAILER         (sizeof(uint64_t))

/* Set once, by main() */
static int dm_fd;
static char *disk;
static uint64_t zone_sectors;

typedef struct Report {
    struct virtio_blk_zone_report head;
    struct virtio_blk_zone_descriptor zone[ZONES];
} Report;

/* The disk that hangs */

typedef struct DmCommand {
    struct dm_ioctl head;
    struct dm_target_spec target;
    char params[PATH_MAX];
} DmCommand;

static void dm(unsigned long request, DmCommand *c)
{
    c->head.version[0] = DM_VERSION_MAJOR;
    c->head.data_size = sizeof(*c);
    c->head.data_start = offsetof(DmCommand, target);
    strcpy(c->head.name, DM_NAME);
    if (ioctl(dm_fd, request, c)) {
        g_error("device-mapper ioctl 0x%lx: %s", request, strerror(errno));
    }
}

static void release(void)
{
    DmCommand c = { };

    dm(DM_DEV_SUSPEND, &c);
}

/* First of all: QEMU cannot die while the kernel holds I/O of it */
static void release_at_abort(void *opaque)
{
    release();
}

/* Does not wait for what hangs, nor flush anything. */
static void hold(void)
{
    DmCommand c = {
        .head.flags = DM_SUSPEND_FLAG | DM_SKIP_LOCKFS_FLAG | DM_NOFLUSH_FLAG,
    };

    qtest_add_abrt_handler(release_at_abort, disk);
    dm(DM_DEV_SUSPEND, &c);
}

static void let_go(void)
{
    release();
    qtest_remove_abrt_handler(disk);
}

static void create_disk(const char *below)
{
    DmCommand create = { }, load = { .head.target_count = 1 };
    int fd = open(below, O_RDWR);
    uint64_t bytes;
    uint32_t sectors;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ioctl(fd, BLKGETSIZE64, &bytes), ==, 0);
    g_assert_cmpint(ioctl(fd, BLKGETZONESZ, &sectors), ==, 0);
    close(fd);
    zone_sectors = sectors;

    dm_fd = open("/dev/" DM_DIR "/" DM_CONTROL_NODE, O_RDWR);
    g_assert_cmpint(dm_fd, >=, 0);
    dm(DM_DEV_CREATE, &create);
    disk = g_strdup_printf("/dev/dm-%u", minor(create.head.dev));
    load.target.length = bytes / VBC_SECTOR;
    strcpy(load.target.target_type, "linear");
    g_strlcpy(load.params, below, sizeof(load.params));
    g_strlcat(load.params, " 0", sizeof(load.params));
    dm(DM_TABLE_LOAD, &load);
    release();
}

static void remove_disk(void)
{
    DmCommand c = { };

    dm(DM_DEV_REMOVE, &c);
    g_free(disk);
    close(dm_fd);
}

/* Zones */

static uint64_t zone(unsigned int index)
{
    return index * zone_sectors;
}

static VbcReq zone_req(uint32_t type, unsigned int index)
{
    return (VbcReq) { .type = type, .sector = zone(index) };
}

/*
 * The data has pages of its own: QEMU's file-posix takes an append whose memory
 * is not aligned, but never copies it.
 */
static VbcReq append_req(Vbc *v, unsigned int index, int fill)
{
    g_autofree uint8_t *buf = g_malloc(LEN);
    VbcReq r = {
        .type = VIRTIO_BLK_T_ZONE_APPEND, .sector = zone(index),
        .len = LEN, .at = guest_alloc(&v->alloc, LEN), .trailer = TRAILER,
    };

    g_assert_cmphex(r.at % LEN, ==, 0);
    disk_pattern(buf, LEN, r.sector * VBC_SECTOR, fill);
    qtest_bufwrite(v->qts, r.at, buf, LEN);
    return r;
}

static VbcReq report_req(void)
{
    return (VbcReq) { .type = VIRTIO_BLK_T_ZONE_REPORT,
                      .len = sizeof(Report), .fill = VBC_POISON };
}

static void do_zone(Vbc *v, uint32_t type, unsigned int index)
{
    VbcReq r = zone_req(type, index);

    vbc_do(v, &r, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(r.used_len, ==, 1);
}

/* The trailer of an append, which has been used: where the data went */
static void check_append(Vbc *v, VbcReq *r, uint64_t sector, int fill)
{
    g_autofree uint8_t *want = g_malloc(LEN);
    g_autofree uint8_t *got = g_malloc(LEN);
    VbcReq read = { .type = VIRTIO_BLK_T_IN, .sector = sector, .len = LEN };

    g_assert_cmpuint(r->used_len, ==, TRAILER + 1);
    g_assert_cmpuint(qtest_readq(v->qts, r->status_addr - TRAILER), ==,
                     sector);

    /* The pattern is that of the sector the request named: the zone's first */
    vbc_do(v, &read, VIRTIO_BLK_S_OK);
    disk_pattern(want, LEN, r->sector * VBC_SECTOR, fill);
    qtest_bufread(v->qts, read.data, got, LEN);
    g_assert_cmpmem(got, LEN, want, LEN);
}

static void check_zone(const Report *rep, unsigned int index, uint8_t state,
                       uint64_t written)
{
    const struct virtio_blk_zone_descriptor *z = &rep->zone[index];

    g_test_message("zone %u: state %u, write pointer %" PRIu64, index,
                   z->z_state, le64_to_cpu(z->z_wp) - zone(index));
    g_assert_cmpuint(z->z_type, ==, VIRTIO_BLK_ZT_SWR);
    g_assert_cmpuint(le64_to_cpu(z->z_start), ==, zone(index));
    g_assert_cmpuint(le64_to_cpu(z->z_cap), ==, zone_sectors);
    g_assert_cmpuint(z->z_state, ==, state);
    if (state != VIRTIO_BLK_ZS_FULL) {
        g_assert_cmpuint(le64_to_cpu(z->z_wp), ==, zone(index) + written);
    }
}

static void read_report(Vbc *v, VbcReq *r, Report *rep)
{
    g_assert_cmpuint(r->used_len, ==, sizeof(*rep) + 1);
    qtest_bufread(v->qts, r->data, rep, sizeof(*rep));
    g_assert_cmpuint(le64_to_cpu(rep->head.nr_zones), ==, ZONES);
}

static void check_one(Vbc *v, unsigned int index, uint8_t state,
                      uint64_t written)
{
    VbcReq r = report_req();
    Report rep;

    vbc_do(v, &r, VIRTIO_BLK_S_OK);
    read_report(v, &r, &rep);
    check_zone(&rep, index, state, written);
}

/* A QEMU on the disk, all zones of which are empty */
static Vbc *start(const VbcOptions *setup, const char *args)
{
    g_autofree char *drive = g_strdup_printf(
        "driver=host_device,cache=none,filename=%s", disk);
    g_autofree char *all = g_strdup_printf(
        "%s %s", getenv("QTEST_QEMU_ARGS") ?: "", args);
    VbcOptions opts = {
        .iothreads = setup->iothreads, .queues = setup->queues,
        .ring = setup->ring, .features = VBC_F(VIRTIO_BLK_F_ZONED),
        .image = disk, .drive_all = drive, .args = all,
    };
    Vbc *v = vbc_start(&opts);

    do_zone(v, VIRTIO_BLK_T_ZONE_RESET_ALL, 0);
    return v;
}

/* Config and features, and each command: right with a header of 24 bytes */
static void test_commands(const void *setup)
{
    Vbc *v = start(setup, "");
    VbcReq append = append_req(v, 1, 2), again = append_req(v, 1, 3);
    VbcReq beyond = report_req(), middle = append_req(v, 1, 4);
    Report rep;
    VbcReq r;

    g_assert_cmphex(v->dev->features & VBC_F(VBC_F_CANCEL), !=, 0);
    g_assert_cmphex(v->dev->features & VBC_F(VIRTIO_BLK_F_ZONED), !=, 0);
    g_assert_cmpuint(qvirtio_config_readl(v->dev,
        offsetof(struct virtio_blk_config, zoned.zone_sectors)), ==,
        zone_sectors);
    g_assert_cmpuint(qvirtio_config_readb(v->dev,
        offsetof(struct virtio_blk_config, zoned.model)), ==,
        VIRTIO_BLK_Z_HM);

    vbc_write(v, 0, LEN, 1);
    vbc_check_read(v, 0, LEN, 1);
    append.tag = 17;
    vbc_do(v, &append, VIRTIO_BLK_S_OK);
    check_append(v, &append, zone(1), 2);
    vbc_do(v, &again, VIRTIO_BLK_S_OK);
    check_append(v, &again, zone(1) + SECTORS, 3);

    /* Neither has any effect, and the trailer of the second is left alone */
    beyond.sector = UINT64_MAX / VBC_SECTOR / 4;
    vbc_do(v, &beyond, VIRTIO_BLK_S_ZONE_INVALID_CMD);
    middle.sector += SECTORS;
    vbc_do(v, &middle, VIRTIO_BLK_S_ZONE_INVALID_CMD);

    do_zone(v, VIRTIO_BLK_T_ZONE_OPEN, 2);
    check_one(v, 2, VIRTIO_BLK_ZS_EOPEN, 0);
    vbc_write(v, zone(2), LEN, 5);
    do_zone(v, VIRTIO_BLK_T_ZONE_CLOSE, 2);
    do_zone(v, VIRTIO_BLK_T_ZONE_FINISH, 3);

    r = report_req();
    vbc_do(v, &r, VIRTIO_BLK_S_OK);
    read_report(v, &r, &rep);
    check_zone(&rep, 0, VIRTIO_BLK_ZS_IOPEN, SECTORS);
    check_zone(&rep, 1, VIRTIO_BLK_ZS_IOPEN, 2 * SECTORS);
    check_zone(&rep, 2, VIRTIO_BLK_ZS_CLOSED, SECTORS);
    check_zone(&rep, 3, VIRTIO_BLK_ZS_FULL, 0);
    check_zone(&rep, 4, VIRTIO_BLK_ZS_EMPTY, 0);

    do_zone(v, VIRTIO_BLK_T_ZONE_RESET, 3);
    check_one(v, 3, VIRTIO_BLK_ZS_EMPTY, 0);

    /* There is nothing left to be cancelled */
    vbc_cancel(v, v->q, append.tag, VIRTIO_BLK_S_OK);
    vbc_stop(v);
}

static void send_all(Vbc *v, VbcReq *r, unsigned int num)
{
    for (unsigned int i = 0; i < num; i++) {
        r[i].tag = 100 + i;
        vbc_send(v, &r[i]);
    }
}

/* All of @r hang, and none is taken back, however often */
static void cancel_in_vain(Vbc *v, VbcReq *r, unsigned int num)
{
    for (unsigned int i = 0; i < 2 * num; i++) {
        vbc_cancel(v, 0, r[i % num].tag, VBC_S_NOT_CANCELED);
    }
    for (unsigned int i = 0; i < num; i++) {
        vbc_expect_pending(v, &r[i]);
    }
}

static void test_hanging(const void *setup)
{
    Vbc *v = start(setup, "");
    VbcReq read = { .type = VIRTIO_BLK_T_IN, .sector = zone(8), .len = LEN,
                    .fill = VBC_POISON, .tag = 1 };
    VbcReq all = { .type = VIRTIO_BLK_T_ZONE_RESET_ALL };
    VbcReq r[] = {
        { .type = VIRTIO_BLK_T_OUT, .sector = zone(0), .len = LEN, .fill = 1 },
        append_req(v, 1, 2),
        zone_req(VIRTIO_BLK_T_ZONE_OPEN, 2),
        zone_req(VIRTIO_BLK_T_ZONE_CLOSE, 3),
        zone_req(VIRTIO_BLK_T_ZONE_FINISH, 4),
        zone_req(VIRTIO_BLK_T_ZONE_RESET, 5),
    };
    VbcReq report = report_req();
    Report rep;

    for (unsigned int i = 3; i <= 8; i++) {
        vbc_write(v, zone(i), LEN, i);
    }
    hold();
    vbc_send(v, &read);
    vbc_sync(v, 0);
    vbc_cancel_req(v, &read);
    vbc_reuse(v, &read);
    send_all(v, r, ARRAY_SIZE(r));
    vbc_sync(v, 0);
    cancel_in_vain(v, r, ARRAY_SIZE(r));
    let_go();
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        vbc_expect(v, &r[i], VIRTIO_BLK_S_OK);
    }
    vbc_check_read(v, zone(0), LEN, 1);
    check_append(v, &r[1], zone(1), 2);
    vbc_do(v, &report, VIRTIO_BLK_S_OK);
    read_report(v, &report, &rep);
    check_zone(&rep, 0, VIRTIO_BLK_ZS_IOPEN, SECTORS);
    check_zone(&rep, 1, VIRTIO_BLK_ZS_IOPEN, SECTORS);
    check_zone(&rep, 2, VIRTIO_BLK_ZS_EOPEN, 0);
    check_zone(&rep, 3, VIRTIO_BLK_ZS_CLOSED, SECTORS);
    check_zone(&rep, 4, VIRTIO_BLK_ZS_FULL, 0);
    check_zone(&rep, 5, VIRTIO_BLK_ZS_EMPTY, 0);
    check_zone(&rep, 8, VIRTIO_BLK_ZS_IOPEN, SECTORS);
    vbc_check_read(v, zone(8), LEN, 8);

    hold();
    send_all(v, &all, 1);
    vbc_sync(v, 0);
    cancel_in_vain(v, &all, 1);
    let_go();
    vbc_expect(v, &all, VIRTIO_BLK_S_OK);
    vbc_do(v, &report, VIRTIO_BLK_S_OK);
    read_report(v, &report, &rep);
    for (unsigned int i = 0; i < ZONES; i++) {
        check_zone(&rep, i, VIRTIO_BLK_ZS_EMPTY, 0);
    }
    vbc_settle(v);
    vbc_check_reused(v, &read);
    vbc_stop(v);
}

/* The report does not hang by itself, but waits for QEMU's only worker */
static void test_hanging_report(const void *setup)
{
    Vbc *v = start(setup, "-object main-loop,id=main,thread-pool-max=1");
    VbcReq r[] = {
        zone_req(VIRTIO_BLK_T_ZONE_OPEN, 2), report_req(),
    };
    Report rep;

    /* These are issued as soon as they are seen; vbc_sync() needs a worker */
    hold();
    send_all(v, r, ARRAY_SIZE(r));
    cancel_in_vain(v, r, ARRAY_SIZE(r));
    let_go();
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        vbc_expect(v, &r[i], VIRTIO_BLK_S_OK);
    }
    read_report(v, &r[1], &rep);
    check_zone(&rep, 1, VIRTIO_BLK_ZS_EMPTY, 0);
    check_zone(&rep, 2, VIRTIO_BLK_ZS_EOPEN, 0);
    vbc_stop(v);
}

static bool is_released;        /* atomic */

static void *release_soon(void *opaque)
{
    /* No order rests on this: the longer, the more there is to wait for */
    g_usleep(50 * 1000);
    qatomic_set(&is_released, true);
    release();
    return NULL;
}

/* A reset ends only after what moves a write pointer */
static void test_hanging_reset(const void *setup)
{
    Vbc *v = start(setup, "");
    VbcReq write = {
        .type = VIRTIO_BLK_T_OUT, .sector = zone(0), .len = LEN, .fill = 1,
    };
    VbcReq report = report_req();
    GThread *releaser;
    Report rep;

    hold();
    send_all(v, &write, 1);
    vbc_sync(v, 0);
    qatomic_set(&is_released, false);
    releaser = g_thread_new("releaser", release_soon, NULL);
    vbc_restart_device(v);
    g_assert_true(qatomic_read(&is_released));
    g_thread_join(releaser);
    qtest_remove_abrt_handler(disk);

    vbc_do(v, &report, VIRTIO_BLK_S_OK);
    read_report(v, &report, &rep);
    check_zone(&rep, 0, VIRTIO_BLK_ZS_IOPEN, SECTORS);
    vbc_check_read(v, zone(0), LEN, 1);
    vbc_stop(v);
}

static void test_skip(void)
{
    g_test_skip("needs a zoned disk; see tests/guest/test_zoned.py");
}

int main(int argc, char **argv)
{
    const char *below = getenv("ZONED_DISK");
    int ret;

    g_test_init(&argc, &argv, NULL);
    if (!below) {
        qtest_add_func("/virtio-blk-cancel/zoned", test_skip);
        return g_test_run();
    }
    create_disk(below);
    vbc_add_test("zoned/commands", VBC_SETUP_PLAIN, test_commands);
    vbc_add_test("zoned/hanging", VBC_SETUP_PLAIN, test_hanging);
    vbc_add_test("zoned/hanging-report", VBC_SETUP_PLAIN,
                 test_hanging_report);
    vbc_add_test("zoned/hanging-reset", VBC_SETUP_PLAIN, test_hanging_reset);
    ret = g_test_run();
    remove_disk();
    return ret;
}
