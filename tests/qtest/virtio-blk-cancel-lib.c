/*
 * What the tests of virtio-blk's CANCEL request stand on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Requests, storage that hangs, the device, and all of it together.  libqos
 * finds and starts the device; virtio-blk-cancel-ring.c drives its rings.
 */

#include "qemu/osdep.h"
#include <sys/wait.h>
#include <sys/prctl.h>
#include "qemu/atomic.h"
#include "qemu/bswap.h"
#include "standard-headers/linux/pci_regs.h"
#include "standard-headers/linux/virtio_pci.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "gate-patience.h"
#include "virtio-blk-cancel-lib.h"


/* What is below it, and hangs, is not asked any faster */
#define SLOW "-object throttle-group,id=slow,x-iops-total=2 " \
             "-blockdev throttle,throttle-group=slow,node-name=top,file=drv"

/* Contents */

void vbc_fill(Vbc *v, VbcReq *r, int fill)
{
    g_autofree uint8_t *buf = g_malloc(r->data_len);

    disk_pattern(buf, r->data_len, r->sector * VBC_SECTOR, fill);
    qtest_bufwrite(v->qts, r->data, buf, r->data_len);
}

void vbc_check_data(Vbc *v, VbcReq *r, int fill)
{
    g_autofree uint8_t *buf = g_malloc(r->data_len);

    qtest_bufread(v->qts, r->data, buf, r->data_len);
    disk_pattern_check(buf, r->data_len, r->sector * VBC_SECTOR, fill);
}

void vbc_check_disk(Vbc *v, uint64_t sector, uint32_t len, int fill)
{
    g_autofree uint8_t *buf = g_malloc(len);
    int fd = open(v->image, O_RDONLY);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pread(fd, buf, len, sector * VBC_SECTOR), ==, len);
    close(fd);
    disk_pattern_check(buf, len, sector * VBC_SECTOR, fill);
}

/* Requests */

static bool has_cancel(Vbc *v)
{
    return v->dev->features & VBC_F(VBC_F_CANCEL);
}

static bool is_range(const VbcReq *r)
{
    return r->type == VIRTIO_BLK_T_DISCARD ||
           r->type == VIRTIO_BLK_T_WRITE_ZEROES;
}

static bool is_out(const VbcReq *r)
{
    return r->direction ? r->direction == VBC_DATA_OUT
                        : r->type & VIRTIO_BLK_T_OUT;
}

static void write_header(Vbc *v, VbcReq *r, unsigned int len)
{
    struct {
        uint32_t type;
        uint32_t reserved;
        uint64_t sector;
        uint64_t tag;
    } header = {
        .type = cpu_to_le32(r->type),
        .reserved = cpu_to_le32(r->reserved),
        .sector = cpu_to_le64(is_range(r) ? 0 : r->sector),
        .tag = cpu_to_le64(r->tag),
    };

    QEMU_BUILD_BUG_ON(sizeof(header) != VBC_HEADER);
    qtest_memwrite(v->qts, r->mem, &header, len);
}

static void write_data(Vbc *v, VbcReq *r)
{
    struct virtio_blk_discard_write_zeroes range = {
        .sector = cpu_to_le64(r->sector),
        .num_sectors = cpu_to_le32(r->len / VBC_SECTOR),
        .flags = cpu_to_le32(r->flags),
    };

    if (is_range(r)) {
        qtest_memwrite(v->qts, r->data, &range, sizeof(range));
    } else if (r->data_len) {
        vbc_fill(v, r, r->fill);
    }
}

/* Cut @len bytes at @addr where the framing of @r wants it. */
static void add_segments(const VbcReq *r, VbcSegment *segs, unsigned int *num,
                         uint64_t addr, uint32_t len, uint32_t header,
                         bool write)
{
    uint32_t start = 0;

    for (uint32_t end = 1; end <= len; end++) {
        bool cut = end == len ||
                   (r->framing != VBC_FRAME_JOINED && end == header) ||
                   (!write && r->split && end == r->split) ||
                   (!write && r->framing == VBC_FRAME_BYTES && end <= header);

        if (cut) {
            g_assert_cmpuint(*num, <, VBC_MAX_SEGMENTS);
            segs[(*num)++] = (VbcSegment) {
                .addr = addr + start, .len = end - start, .write = write,
            };
            start = end;
        }
    }
}

/*
 * Move each of @segs, which the device reads, to a place of its own: what lies
 * behind a piece of the header is not the next piece.
 */
static void scatter(Vbc *v, VbcReq *r, VbcSegment *segs, unsigned int num)
{
    for (unsigned int i = 0; i < num; i++) {
        g_autofree uint8_t *buf = g_malloc(segs[i].len);
        uint64_t to = guest_alloc(&v->alloc, segs[i].len);

        qtest_bufread(v->qts, segs[i].addr, buf, segs[i].len);
        qtest_bufwrite(v->qts, to, buf, segs[i].len);
        qtest_memset(v->qts, segs[i].addr, VBC_POISON, segs[i].len);
        if (r->data >= segs[i].addr && r->data < segs[i].addr + segs[i].len) {
            r->data = to + r->data - segs[i].addr;
        }
        segs[i].addr = to;
    }
}

/* Returns: how many segments header, data in pieces, and status are. */
static unsigned int add_pieces(const VbcReq *r, VbcSegment *segs,
                               uint32_t header)
{
    unsigned int pieces = r->pieces ?: 1;
    uint32_t len = r->data_len / pieces;

    g_assert_cmpuint(pieces + 2, <=, VBC_MAX_SEGMENTS);
    g_assert_cmpuint(len * pieces, ==, r->data_len);
    segs[0] = (VbcSegment) { .addr = r->mem, .len = header };
    for (unsigned int i = 0; i < pieces; i++) {
        segs[1 + i] = (VbcSegment) {
            .addr = r->data + (r->alias ? 0 : i * len), .len = len,
            .write = !is_out(r),
        };
    }
    segs[1 + pieces] = (VbcSegment) {
        .addr = r->status_addr - r->trailer, .len = r->trailer + 1,
        .write = true,
    };
    return pieces + 2;
}

void vbc_add(Vbc *v, VbcReq *r)
{
    unsigned int header = r->header ?: has_cancel(v) ? VBC_HEADER
                                                     : VBC_HEADER_STOCK;
    uint32_t out_len, in_len;
    VbcSegment segs[VBC_MAX_SEGMENTS];
    unsigned int num = 0;
    uint64_t in;

    r->data_len = is_range(r) ? sizeof(struct virtio_blk_discard_write_zeroes)
                              : r->len;
    out_len = header + (is_out(r) && !r->at ? r->data_len : 0);
    in_len = r->trailer + 1 + (is_out(r) || r->at ? 0 : r->data_len);
    r->mem = guest_alloc(&v->alloc, out_len + in_len);
    in = r->mem + out_len;
    r->data = r->at ?: is_out(r) ? r->mem + header : in;
    r->status_addr = in + in_len - 1;

    r->order = 0;
    r->used_len = 0;
    r->status = VBC_NO_STATUS;
    qtest_writeb(v->qts, r->status_addr, VBC_NO_STATUS);
    if (r->trailer) {
        qtest_memset(v->qts, r->status_addr - r->trailer, VBC_POISON,
                     r->trailer);
    }
    write_header(v, r, header);
    if (!r->at) {
        write_data(v, r);
    }
    if (r->at || r->pieces) {
        num = add_pieces(r, segs, header);
        vbc_ring_add(v, r, segs, num);
        return;
    }

    add_segments(r, segs, &num, r->mem, out_len, header, false);
    if (r->split || r->framing == VBC_FRAME_BYTES) {
        scatter(v, r, segs, num);
    }
    add_segments(r, segs, &num, in, in_len, in_len - 1, true);
    vbc_ring_add(v, r, segs, num);
}

void vbc_send(Vbc *v, VbcReq *r)
{
    vbc_add(v, r);
    vbc_kick(v, r->queue);
}

void vbc_wait(Vbc *v, VbcReq *r)
{
    gint64 end = g_get_monotonic_time() + VBC_PATIENCE_US;

    for (vbc_reap(v); !r->order; vbc_reap(v)) {
        if (g_get_monotonic_time() > end) {
            g_error("request of type %u, tag %" PRIu64 " is not used",
                    r->type, r->tag);
        }
        g_usleep(100);
    }
}

void vbc_expect(Vbc *v, VbcReq *r, uint8_t status)
{
    vbc_wait(v, r);
    g_assert_cmpint(r->status, ==, status);
}

void vbc_do(Vbc *v, VbcReq *r, uint8_t status)
{
    vbc_send(v, r);
    vbc_expect(v, r, status);
}

void vbc_expect_pending(Vbc *v, VbcReq *r)
{
    vbc_reap(v);
    g_assert_cmpuint(r->order, ==, 0);
    g_assert_cmphex(qtest_readb(v->qts, r->status_addr), ==, VBC_NO_STATUS);
}

void vbc_sync(Vbc *v, unsigned int queue)
{
    /* A read of nothing goes all the way down, but not to the storage */
    VbcReq nothing = { .type = VIRTIO_BLK_T_IN, .queue = queue,
                       .tag = UINT64_MAX - 1 };

    vbc_do(v, &nothing, VIRTIO_BLK_S_OK);
}

void vbc_send_all(Vbc *v, VbcReq *r, unsigned int num)
{
    for (unsigned int i = 0; i < num; i++) {
        r[i].queue = v->q;
        vbc_send(v, &r[i]);
    }
    vbc_sync(v, v->q);
}

char *vbc_sparse_image(uint64_t size)
{
    char *name;
    int fd = g_file_open_tmp("qtest-cancel.XXXXXX", &name, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, size), ==, 0);
    close(fd);
    return name;
}

unsigned int vbc_cancel(Vbc *v, unsigned int queue, uint64_t tag,
                        uint8_t status)
{
    VbcReq cancel = { .type = VBC_T_CANCEL, .tag = tag, .queue = queue };

    vbc_do(v, &cancel, status);
    return cancel.order;
}

void vbc_cancel_req(Vbc *v, VbcReq *r)
{
    unsigned int order = vbc_cancel(v, r->queue, r->tag, VIRTIO_BLK_S_OK);

    g_assert_cmpuint(r->order, !=, 0);
    g_assert_cmpuint(r->order, <, order);
    g_assert_cmpint(r->status, ==, VBC_S_CANCELED);
}

void vbc_write(Vbc *v, uint64_t sector, uint32_t len, int fill)
{
    VbcReq r = {
        .type = VIRTIO_BLK_T_OUT, .sector = sector, .len = len, .fill = fill,
        .queue = v->q, .tag = UINT64_MAX,
    };

    vbc_do(v, &r, VIRTIO_BLK_S_OK);
}

void vbc_check_read(Vbc *v, uint64_t sector, uint32_t len, int fill)
{
    VbcReq r = {
        .type = VIRTIO_BLK_T_IN, .sector = sector, .len = len,
        .fill = VBC_POISON, .queue = v->q, .tag = UINT64_MAX,
    };

    vbc_do(v, &r, VIRTIO_BLK_S_OK);
    vbc_check_data(v, &r, fill);
}

void vbc_reuse(Vbc *v, VbcReq *r)
{
    if (r->data_len) {
        vbc_fill(v, r, VBC_POISON);
    }
    qtest_writeb(v->qts, r->status_addr, 0x5a);
}

void vbc_check_reused(Vbc *v, VbcReq *r)
{
    if (r->data_len) {
        vbc_check_data(v, r, VBC_POISON);
    }
    g_assert_cmphex(qtest_readb(v->qts, r->status_addr), ==, 0x5a);
}

void vbc_check_unspecified(Vbc *v, uint64_t sector, uint32_t len, int fill)
{
    for (uint32_t i = 0; i < len / VBC_SECTOR; i++) {
        VbcReq r = {
            .type = VIRTIO_BLK_T_IN, .sector = sector + i, .len = VBC_SECTOR,
            .queue = v->q,
        };
        uint8_t got[VBC_SECTOR], old[VBC_SECTOR];
        int is;

        vbc_do(v, &r, VIRTIO_BLK_S_OK);
        qtest_bufread(v->qts, r.data, got, VBC_SECTOR);
        disk_pattern(old, VBC_SECTOR, r.sector * VBC_SECTOR, VBC_OLD);
        is = memcmp(got, old, VBC_SECTOR) ? fill : VBC_OLD;
        vbc_check_data(v, &r, is);
        vbc_check_disk(v, r.sector, VBC_SECTOR, is);
    }
}

/* Storage that hangs */

static char *daemon_binary(void)
{
    const char *named = getenv("QTEST_QEMU_STORAGE_DAEMON_BINARY");
    g_autofree char *dir = NULL;
    char *path;

    if (named) {
        return g_strdup(named);
    }
    dir = g_path_get_dirname(getenv("QTEST_QEMU_BINARY") ?: "");
    path = g_build_filename(dir, "storage-daemon", "qemu-storage-daemon", NULL);
    if (access(path, X_OK)) {
        g_free(path);
        return NULL;
    }
    return path;
}

static void add_export(char **argv, unsigned int *argc, const char *image,
                       const char *name)
{
    argv[(*argc)++] = g_strdup("--blockdev");
    argv[(*argc)++] = g_strdup_printf("file,node-name=%s,filename=%s,"
                                      "discard=unmap", name, image);
    argv[(*argc)++] = g_strdup("--export");
    argv[(*argc)++] = g_strdup_printf("nbd,id=%s,node-name=%s,name=%s,"
                                      "writable=on", name, name, name);
}

static void start_server(Vbc *v, const char *binary)
{
    g_autofree char *server = NULL;
    char *argv[16] = { (char *)binary };
    unsigned int argc = 1;
    int listener, null;

    v->socket = g_strdup_printf("%s.sock", v->image);
    listener = qtest_socket_server(v->socket);
    server = g_strdup_printf("addr.type=fd,addr.str=%d", listener);
    argv[argc++] = (char *)"--nbd-server";
    argv[argc++] = server;
    add_export(argv, &argc, v->image, "disk");
    for (unsigned int i = 0; i < ARRAY_SIZE(v->opts.more); i++) {
        if (v->opts.more[i]) {
            add_export(argv, &argc, v->opts.more[i], i ? "disk2" : "disk1");
        }
    }

    v->server = fork();
    g_assert_cmpint(v->server, >=, 0);
    if (!v->server) {
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        /* The test's output is for the harness */
        null = open("/dev/null", O_RDWR);
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        fcntl(listener, F_SETFD, 0);
        execv(binary, argv);
        _exit(1);
    }
    close(listener);
    for (unsigned int i = 3; i < argc; i++) {
        g_free(argv[i]);
    }
}

void vbc_hold(Vbc *v)
{
    int wstatus;

    if (qatomic_xchg(&v->held, true)) {
        return;
    }
    kill(v->server, SIGSTOP);
    g_assert_cmpint(waitpid(v->server, &wstatus, WUNTRACED), ==, v->server);
    g_assert_true(WIFSTOPPED(wstatus));
}

void vbc_release(Vbc *v)
{
    qatomic_set(&v->held, false);
    kill(v->server, SIGCONT);
}

static void *releaser(void *opaque)
{
    Vbc *v = opaque;

    /* No order rests on this: the longer, the more there is to wait for */
    g_usleep(50 * 1000);
    vbc_release(v);
    return NULL;
}

void vbc_release_soon(Vbc *v)
{
    v->releaser = g_thread_new("releaser", releaser, v);
}

static void watch_let_go(void *opaque)
{
    Vbc *v = opaque;

    if (v->server) {
        vbc_release(v);
    } else {
        kill(qtest_pid(v->qts), SIGKILL);
    }
}

void vbc_watch_begin(Vbc *v)
{
    v->watch = hang_watch_begin(VBC_PATIENCE_US, watch_let_go, v);
}

void vbc_watch_end(Vbc *v)
{
    hang_watch_end(g_steal_pointer(&v->watch));
}

bool vbc_hang_canceled(Vbc *v, unsigned int i)
{
    return has_cancel(v) && i % 3 == 2;
}

void vbc_hang_some(Vbc *v, VbcReq *r)
{
    vbc_hold(v);
    for (unsigned int i = 0; i < VBC_HANGING; i++) {
        r[i] = (VbcReq) {
            .type = i % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, .tag = i,
            .sector = 64 + i % 24 * 4, .len = 4096, .fill = 1,
            .queue = i % v->num_queues,
        };
        vbc_send(v, &r[i]);
        if (vbc_hang_canceled(v, i)) {
            vbc_cancel_req(v, &r[i]);
            vbc_reuse(v, &r[i]);
        }
    }
}

void vbc_hang_write(Vbc *v, VbcReq *r)
{
    *r = (VbcReq) {
        .type = VIRTIO_BLK_T_OUT, .tag = 1, .sector = 8, .len = 4096,
        .fill = 1,
    };
    vbc_hold(v);
    vbc_send_all(v, r, 1);
}

void vbc_expect_exit(Vbc *v, VbcReq *r)
{
    vbc_check_disk(v, r->sector, r->len, VBC_OLD);
    vbc_watch_end(v);
    vbc_release(v);
    qtest_wait_qemu(v->qts);
    vbc_check_disk(v, r->sector, r->len, r->fill);
}

static void qemu_io(Vbc *v, const char *command, const char *a, const char *b)
{
    g_autofree char *out = qtest_hmp(v->qts, "qemu-io drv \"%s %s %s\"",
                                     command, a, b);

    g_assert_cmpstr(out, ==, "");
}

void vbc_break(Vbc *v, const char *event, const char *name)
{
    qemu_io(v, "break", event, name);
}

void vbc_wait_break(Vbc *v, const char *name)
{
    qemu_io(v, "wait_break", name, "");
}

void vbc_resume(Vbc *v, const char *name)
{
    qemu_io(v, "resume", name, "");
}

void vbc_settle(Vbc *v)
{
    /* Stopping hands the queues to the main loop and drains the storage */
    gate_patient_qmp(v->qts, "{\"execute\": \"stop\"}", NULL);
    qtest_qmp_eventwait(v->qts, "STOP");
    qtest_qmp_assert_success(v->qts, "{'execute': 'cont'}");
    qtest_qmp_eventwait(v->qts, "RESUME");
}

int vbc_qemu_img(const char *dir, const char *fmt, ...)
{
    g_autofree char *args = NULL, *command = NULL, *out = NULL, *err = NULL;
    g_autofree char *prefix = g_strdup_printf("%s/", dir);
    g_auto(GStrv) parts = NULL;
    int wstatus = -1;
    va_list ap;

    va_start(ap, fmt);
    args = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    parts = g_strsplit(args, "@", -1);
    g_free(args);
    args = g_strjoinv(prefix, parts);
    command = g_strdup_printf("%s %s", getenv("QTEST_QEMU_IMG"), args);
    g_assert_true(g_spawn_command_line_sync(command, &out, &err, &wstatus,
                                            NULL));
    if (wstatus) {
        g_test_message("%s: %s%s", command, out, err);
    }
    return wstatus;
}

void vbc_create_qcow2(const char *image, off_t size)
{
    g_assert_cmpint(vbc_qemu_img("", "create -q -f qcow2 %s 4M", image), ==,
                    0);
    g_assert_cmpint(truncate(image, size), ==, 0);
}

/* The device */

uint8_t vbc_device_status(Vbc *v)
{
    return v->dev->bus->get_status(v->dev);
}

char *vbc_host_features(Vbc *v)
{
    QDict *ret = qtest_qmp_assert_success_ref(v->qts,
        "{'execute': 'x-query-virtio-status', 'arguments': {"
        " 'path': '/machine/peripheral/vblk/virtio-backend' }}");
    GString *text = qobject_to_json(qdict_get(ret, "host-features"));

    qobject_unref(ret);
    return g_string_free(text, false);
}

int64_t vbc_stat(Vbc *v, const char *name)
{
    QDict *ret = qtest_qmp(v->qts, "{'execute': 'query-blockstats'}");
    QListEntry *entry;
    int64_t value = -1;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(ret, "return"), entry) {
        QDict *disk = qobject_to(QDict, qlist_entry_obj(entry));

        if (!g_strcmp0(qdict_get_try_str(disk, "device"), "drv")) {
            value = qdict_get_int(qdict_get_qdict(disk, "stats"), name);
        }
    }
    qobject_unref(ret);
    return value;
}

void vbc_start_device(Vbc *v)
{
    uint64_t wanted = VBC_F(VIRTIO_F_VERSION_1) | VBC_F(VIRTIO_F_RING_PACKED) |
                      VBC_F(VIRTIO_BLK_F_FLUSH) | VBC_F(VIRTIO_BLK_F_MQ) |
                      VBC_F(VIRTIO_BLK_F_DISCARD) |
                      VBC_F(VIRTIO_BLK_F_WRITE_ZEROES) |
                      VBC_F(VIRTIO_F_RING_RESET) | v->opts.features;
    uint64_t features;

    if (v->opts.ring & VBC_INDIRECT) {
        wanted |= VBC_F(VIRTIO_RING_F_INDIRECT_DESC);
    }
    if (!v->opts.decline) {
        wanted |= VBC_F(VBC_F_CANCEL);
    }
    qvirtio_start_device(v->dev);
    features = qvirtio_get_features(v->dev) & wanted;
    g_assert(!(v->opts.ring & VBC_PACKED) ||
             features & VBC_F(VIRTIO_F_RING_PACKED));
    g_assert_cmphex(features & v->opts.features, ==, v->opts.features);
    g_assert(v->opts.stock || v->opts.decline ||
             features & VBC_F(VBC_F_CANCEL));
    qvirtio_set_features(v->dev, features);

    for (unsigned int i = 0; i < v->num_queues; i++) {
        vbc_ring_setup(v, i);
    }
    qvirtio_set_driver_ok(v->dev);
}

static void free_queues(Vbc *v)
{
    for (unsigned int i = 0; i < v->num_queues; i++) {
        if (v->queue[i].vq) {
            qvirtqueue_cleanup(v->dev->bus, v->queue[i].vq, &v->alloc);
            v->queue[i].vq = NULL;
        }
    }
}

/* The old ring stays where it is, in case the device looks at it */
static void forget_queue(Vbc *v, unsigned int index)
{
    if (v->queue[index].vq) {
        /* vq is the first in a QVirtQueuePCI */
        g_free(v->queue[index].vq);
        v->queue[index].vq = NULL;
    }
}

static void forget_queues(Vbc *v)
{
    for (unsigned int i = 0; i < VBC_MAX_QUEUES; i++) {
        forget_queue(v, i);
    }
}

void vbc_restart_device(Vbc *v)
{
    qvirtio_reset(v->dev);
    v->dev->features_negotiated = false;
    forget_queues(v);
    vbc_start_device(v);
}

void vbc_reset_queue(Vbc *v, unsigned int index)
{
    uint64_t cfg = v->pci->common_cfg_offset;

    v->dev->bus->queue_select(v->dev, index);
    qpci_io_writew(v->pci->pdev, v->pci->bar,
                   cfg + VIRTIO_PCI_COMMON_Q_RESET, 1);
    g_assert_cmpint(qpci_io_readw(v->pci->pdev, v->pci->bar,
                                  cfg + VIRTIO_PCI_COMMON_Q_RESET), ==, 0);
    g_assert_cmpint(qpci_io_readw(v->pci->pdev, v->pci->bar,
                                  cfg + VIRTIO_PCI_COMMON_Q_ENABLE), ==, 0);
    forget_queue(v, index);
}

static void open_port(Vbc *v)
{
    QPCIDevice *port = qpci_device_find(v->bus, QPCI_DEVFN(VBC_SLOT, 0));

    g_assert_nonnull(port);
    qpci_config_writel(port, PCI_PRIMARY_BUS, 0x00010100);
    qpci_config_writel(port, PCI_MEMORY_BASE, 0xeff0e000);
    qpci_config_writew(port, PCI_COMMAND,
                       PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    g_free(port);
}

static void find_pci_device(Vbc *v)
{
    QPCIAddress addr = {
        .devfn = v->opts.port ? VBC_BEHIND_PORT : QPCI_DEVFN(VBC_SLOT, 0),
    };

    if (v->pci) {
        forget_queues(v);
        g_free(v->pci->pdev);
        g_free(v->pci);
    }
    if (v->opts.port) {
        open_port(v);
    }
    v->pci = virtio_pci_new(v->bus, &addr);
    g_assert_nonnull(v->pci);
    if (v->opts.transport == VBC_PCI_LEGACY) {
        vbc_bus_make_legacy(v->pci);
    }
    v->dev = &v->pci->vdev;
    qvirtio_pci_device_enable(v->pci);
}

void vbc_find_device(Vbc *v)
{
    if (v->opts.transport == VBC_MMIO) {
        v->mmio = vbc_bus_find_mmio(v->qts);
        v->dev = &v->mmio->vdev;
    } else {
        find_pci_device(v);
    }
}

/* Everything together */

static void create_image(Vbc *v)
{
    g_autofree uint8_t *buf = g_malloc(VBC_DISK_SIZE);
    int fd;

    if (v->opts.image) {
        v->image = g_strdup(v->opts.image);
        return;
    }
    fd = g_file_open_tmp("qtest-cancel.XXXXXX", &v->image, NULL);
    g_assert_cmpint(fd, >=, 0);
    disk_pattern(buf, VBC_DISK_SIZE, 0, VBC_OLD);
    g_assert_cmpint(write(fd, buf, VBC_DISK_SIZE), ==, VBC_DISK_SIZE);
    close(fd);
}

static char *drive_options(Vbc *v)
{
    const char *more = v->opts.drive ?: "";
    const char *format = v->opts.format ?: "raw";

    if (v->opts.drive_all) {
        return g_strdup(v->opts.drive_all);
    }
    if (v->server) {
        return g_strdup_printf("%s=%s,discard=unmap,"
                               "file.driver=nbd,file.server.type=unix,"
                               "file.server.path=%s,file.export=disk%s",
                               v->opts.node ? "driver" : "format",
                               format, v->socket, more);
    }
    return g_strdup_printf("format=%s,discard=unmap,"
                           "file.driver=blkdebug,file.image.driver=file,"
                           "file.image.filename=%s%s", format, v->image, more);
}

static char *device_options(Vbc *v)
{
    bool mmio = v->opts.transport == VBC_MMIO;
    GString *s;

    if (v->opts.device_all) {
        return g_strdup(v->opts.device_all);
    }
    s = g_string_new("{'id': 'vblk', 'serial': 'cancel-me'");
    g_string_append_printf(s, ", 'drive': '%s'", v->opts.slow ? "top" : "drv");
    g_string_append_printf(s, ", 'driver': 'virtio-blk-%s', 'num-queues': %u",
                           mmio ? "device" : "pci", v->num_queues);
    if (v->opts.port) {
        g_string_append(s, ", 'bus': 'root-port'");
    } else if (!mmio) {
        g_string_append_printf(s, ", 'addr': '%x.0'", VBC_SLOT);
    }
    if (!v->opts.stock) {
        g_string_append(s, ", 'cancel': 'on'");
    }
    if (v->opts.ring & VBC_PACKED) {
        g_string_append(s, ", 'packed': true");
    }
    if (v->opts.iothreads == 1) {
        g_string_append(s, ", 'iothread': 'io0'");
    } else if (v->opts.iothreads) {
        g_string_append(s, ", 'iothread-vq-mapping': [");
        for (unsigned int i = 0; i < v->opts.iothreads; i++) {
            g_string_append_printf(s, "%s{'iothread': 'io%u'}",
                                   i ? ", " : "", i);
        }
        g_string_append(s, "]");
    }
    g_string_append_printf(s, "%s%s}", v->opts.device ? ", " : "",
                           v->opts.device ?: "");
    g_strdelimit(s->str, "'", '"');
    g_string_prepend(s, "-device '");
    g_string_append(s, "'");
    return g_string_free(s, false);
}

/* After a failed assertion nothing may be left that waits for what hangs */
static void kill_all(void *opaque)
{
    Vbc *v = opaque;

    if (v->server > 0) {
        kill(v->server, SIGKILL);
        unlink(v->socket);
    }
    if (v->qts && qtest_pid(v->qts) > 0) {
        kill(qtest_pid(v->qts), SIGKILL);
    }
    if (!v->opts.image) {
        unlink(v->image);
    }
}

Vbc *vbc_start(const VbcOptions *opts)
{
    g_autofree char *binary = opts->server ? daemon_binary() : NULL;
    g_autofree char *drive = NULL;
    g_autofree char *device = NULL;
    g_autoptr(GString) threads = g_string_new("");
    Vbc *v;

    if (opts->server && !binary) {
        g_test_skip("needs qemu-storage-daemon");
        return NULL;
    }
    v = g_new0(Vbc, 1);
    v->opts = *opts;
    v->num_queues = opts->queues ?: 1;
    v->q = v->num_queues - 1;
    create_image(v);
    if (binary) {
        start_server(v, binary);
    }
    for (unsigned int i = 0; i < opts->iothreads; i++) {
        g_string_append_printf(threads, "-object iothread,id=io%u ", i);
    }
    drive = drive_options(v);
    device = device_options(v);
    if (opts->port) {
        g_string_append_printf(threads, "-device pcie-root-port,id=root-port,"
                               "addr=%x.0 ", VBC_SLOT);
    }
    v->qts = qtest_initf("-machine %s -nodefaults %s %s "
                         "%s,%s %s %s",
                         opts->machine ?: opts->port ? "q35" :
                         opts->transport == VBC_MMIO ? "microvm" : "pc",
                         threads->str, opts->args ?: "",
                         opts->node ? "-blockdev node-name=drv"
                                    : "-drive if=none,id=drv",
                         drive, opts->slow ? SLOW : "", device);
    qtest_add_abrt_handler(kill_all, v);

    pc_alloc_init(&v->alloc, v->qts, ALLOC_NO_FLAGS);
    if (opts->transport != VBC_MMIO) {
        v->bus = qpci_new_pc(v->qts, &v->alloc);
    }
    if (!opts->no_start) {
        vbc_find_device(v);
        vbc_start_device(v);
    }
    return v;
}

void vbc_abandon(Vbc *v)
{
    if (v->releaser) {
        g_thread_join(v->releaser);
    }
    if (v->server) {
        vbc_release(v);
    }
    if (v->dev) {
        free_queues(v);
    }
    if (v->pci) {
        qvirtio_pci_destructor(&v->pci->obj);
        g_free(v->pci);
    }
    if (v->bus) {
        qpci_free_pc(v->bus);
    }
    g_free(v->mmio);
    alloc_destroy(&v->alloc);
    qtest_quit(g_steal_pointer(&v->qts));
    qtest_remove_abrt_handler(v);
    if (v->server) {
        kill(v->server, SIGTERM);
        waitpid(v->server, NULL, 0);
        unlink(v->socket);
        g_free(v->socket);
    }
    if (!v->opts.image) {
        unlink(v->image);
    }
    g_free(v->image);
    g_free(v);
}

void vbc_stop(Vbc *v)
{
    if (v->server) {
        vbc_release(v);
    }
    vbc_settle(v);
    vbc_reap(v);
    for (unsigned int i = 0; i < v->num_queues; i++) {
        for (unsigned int j = 0; j < v->queue[i].vq->size; j++) {
            g_assert_null(v->queue[i].owner[j]);
        }
    }
    g_assert_false(vbc_device_status(v) & VIRTIO_CONFIG_S_NEEDS_RESET);
    vbc_abandon(v);
}

void vbc_add_test(const char *path, unsigned int setups,
                  void (*fn)(const void *opts))
{
    static const struct {
        const char *name;
        unsigned int kind;
        VbcOptions opts;
    } setup[] = {
        { "split", VBC_SETUP_PLAIN },
        { "split-indirect", VBC_SETUP_RINGS, { .ring = VBC_INDIRECT } },
        { "packed", VBC_SETUP_RINGS, { .ring = VBC_PACKED } },
        { "packed-indirect", VBC_SETUP_RINGS,
          { .ring = VBC_PACKED | VBC_INDIRECT } },
        { "iothread", VBC_SETUP_IOTHREADS, { .iothreads = 1 } },
        { "iothreads", VBC_SETUP_IOTHREADS, { .iothreads = 2, .queues = 4 } },
    };

    for (unsigned int i = 0; i < ARRAY_SIZE(setup); i++) {
        g_autofree char *name = g_strdup_printf("/virtio-blk-cancel/%s/%s",
                                                path, setup[i].name);

        if (setups & setup[i].kind) {
            qtest_add_data_func(name, &setup[i].opts, fn);
        }
    }
}
