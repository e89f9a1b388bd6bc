/*
 * Tests of virtio-blk's CANCEL request: what is below the device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Random requests, some of them cancelled, on image formats and filters, and
 * while a block job runs.  The storage hangs in the middle of each round.  What
 * each sector may hold is kept in a model; at the end the images must be sound
 * and equal to it.  Random numbers come from GLib: --seed repeats a run.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "gate-patience.h"
#include "virtio-blk-cancel-lib.h"

#define SLOTS           16              /* of the disk, one request in each */
#define SLOT_SECTORS    128
#define SLOT_BYTES      (SLOT_SECTORS * VBC_SECTOR)
#define SECTORS         (SLOTS * SLOT_SECTORS)
#define BYTES           (SECTORS * VBC_SECTOR)
#define MAX_MAYBE       6
#define ROUNDS          4

/* The storage daemon's exports cannot grow */
#define FILE_SIZE       (16 * MiB)

typedef struct Model {
    /* What a sector may hold, as disk_pattern() has it */
    int maybe[SECTORS][MAX_MAYBE];
    unsigned int num[SECTORS];
} Model;

typedef struct Layers {
    char *dir;
    const char *format;         /* of the image */
    char *open;                 /* how qemu-img opens a file, or NULL */
    Model model;
    Vbc *v;
    bool ending;                /* a job, which drains: nothing may hang */
    int fill;                   /* of the latest write */
    VbcReq r[2 * SLOTS];
    VbcReq cancel[2 * SLOTS];
} Layers;

/* The model */

static void model_set(Model *m, uint64_t sector, uint32_t len, int fill)
{
    for (uint64_t i = sector; i < sector + len / VBC_SECTOR; i++) {
        m->maybe[i][0] = fill;
        m->num[i] = 1;
    }
}

static void model_add(Model *m, uint64_t sector, uint32_t len, int fill)
{
    for (uint64_t i = sector; i < sector + len / VBC_SECTOR; i++) {
        g_assert_cmpuint(m->num[i], <, MAX_MAYBE);
        m->maybe[i][m->num[i]++] = fill;
    }
}

/* @buf holds the sectors from @sector on: that is what they hold now. */
static void model_settle(Model *m, uint64_t sector, uint32_t len,
                         const uint8_t *buf)
{
    uint8_t want[VBC_SECTOR];

    for (uint64_t i = sector; i < sector + len / VBC_SECTOR; i++) {
        unsigned int n;

        for (n = 0; n < m->num[i]; n++) {
            disk_pattern(want, VBC_SECTOR, i * VBC_SECTOR, m->maybe[i][n]);
            if (!memcmp(want, buf + (i - sector) * VBC_SECTOR, VBC_SECTOR)) {
                break;
            }
        }
        if (n == m->num[i]) {
            g_error("sector %" PRIu64 " has none of its %u possible contents",
                    i, n);
        }
        m->maybe[i][0] = m->maybe[i][n];
        m->num[i] = 1;
    }
}

/* The disk at first: every other slot has data. */
static void model_init(Model *m, const char *raw)
{
    g_autofree uint8_t *buf = g_malloc(BYTES);

    for (unsigned int i = 0; i < SLOTS; i++) {
        int fill = i % 2 ? VBC_OLD : VBC_ZEROES;

        model_set(m, i * SLOT_SECTORS, SLOT_BYTES, fill);
        disk_pattern(buf + i * SLOT_BYTES, SLOT_BYTES, i * SLOT_BYTES, fill);
    }
    g_assert_true(g_file_set_contents(raw, (char *)buf, BYTES, NULL));
}

/* The raw image @name must be what @m says. */
static void model_check(Layers *l, const Model *m, const char *name)
{
    g_autofree char *path = g_build_filename(l->dir, name, NULL);
    g_autofree Model *copy = g_memdup2(m, sizeof(*m));
    g_autofree char *buf = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(path, &buf, &len, NULL));
    g_assert_cmpuint(len, >=, BYTES);
    model_settle(copy, 0, BYTES, (uint8_t *)buf);
}

/* Requests */

static VbcReq random_req(Layers *l, unsigned int slot, uint64_t tag)
{
    static const uint32_t types[] = {
        VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_IN,
        VIRTIO_BLK_T_IN, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_DISCARD,
        VIRTIO_BLK_T_FLUSH,
    };
    unsigned int from = g_test_rand_int_range(0, SLOT_SECTORS);
    unsigned int to = g_test_rand_int_range(from + 1, SLOT_SECTORS + 1);
    VbcReq r = {
        .type = types[g_test_rand_int_range(0, ARRAY_SIZE(types))],
        .tag = tag, .queue = slot % l->v->num_queues,
    };

    if (r.type == VIRTIO_BLK_T_FLUSH) {
        return r;
    }
    if (g_test_rand_bit()) {
        from = 0;                       /* whole clusters */
        to = SLOT_SECTORS;
    }
    r.sector = slot * SLOT_SECTORS + from;
    r.len = (to - from) * VBC_SECTOR;
    r.fill = r.type == VIRTIO_BLK_T_OUT ? ++l->fill % 200 :
             r.type == VIRTIO_BLK_T_WRITE_ZEROES ? VBC_ZEROES : VBC_POISON;
    return r;
}

/* What @r, which has been used, means to the model */
static void account(Layers *l, VbcReq *r)
{
    bool canceled = r->status == VBC_S_CANCELED;

    if (!canceled) {
        g_assert_cmpint(r->status, ==, VIRTIO_BLK_S_OK);
    }
    switch (r->type) {
    case VIRTIO_BLK_T_OUT:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        if (canceled) {
            model_add(&l->model, r->sector, r->len, r->fill);
        } else {
            model_set(&l->model, r->sector, r->len, r->fill);
        }
        break;
    case VIRTIO_BLK_T_DISCARD:
        model_add(&l->model, r->sector, r->len, VBC_ZEROES);
        break;
    case VIRTIO_BLK_T_IN:
        if (!canceled) {
            g_autofree uint8_t *buf = g_malloc(r->len);

            qtest_bufread(l->v->qts, r->data, buf, r->len);
            model_settle(&l->model, r->sector, r->len, buf);
        }
        break;
    }
}

static void send_cancel(Layers *l, unsigned int i)
{
    l->cancel[i] = (VbcReq) {
        .type = VBC_T_CANCEL, .tag = l->r[i].tag, .queue = l->r[i].queue,
    };
    vbc_send(l->v, &l->cancel[i]);
}

/* Wait for the CANCEL of request @i, and for that if it was cancelled. */
static void wait_cancel(Layers *l, unsigned int i)
{
    vbc_expect(l->v, &l->cancel[i], VIRTIO_BLK_S_OK);
    g_assert_cmpuint(l->r[i].order, !=, 0);
    g_assert_cmpuint(l->r[i].order, <, l->cancel[i].order);
}

/*
 * A request in each slot.  Some are cancelled, and others follow them, while
 * the storage hangs.  Then it goes on; half of what is left is cancelled as it
 * completes.
 */
static void run_round(Layers *l)
{
    bool gone[SLOTS];
    unsigned int n = SLOTS;

    if (!l->ending) {
        vbc_hold(l->v);
    }
    for (unsigned int i = 0; i < SLOTS; i++) {
        l->r[i] = random_req(l, i, i);
        vbc_send(l->v, &l->r[i]);
    }
    for (unsigned int i = 0; i < SLOTS; i++) {
        gone[i] = g_test_rand_bit();
        if (gone[i]) {
            send_cancel(l, i);
        }
    }
    for (unsigned int i = 0; i < SLOTS; i++) {
        if (gone[i]) {
            wait_cancel(l, i);
            account(l, &l->r[i]);
            vbc_reuse(l->v, &l->r[i]);
            l->r[n] = random_req(l, i, n);
            vbc_send(l->v, &l->r[n++]);
        }
    }
    vbc_release(l->v);
    for (unsigned int i = 0; i < n; i += 3) {
        if (i >= SLOTS || !gone[i]) {
            send_cancel(l, i);
        }
    }
    for (unsigned int i = 0; i < n; i++) {
        if (i >= SLOTS || !gone[i]) {
            if (i % 3 == 0) {
                wait_cancel(l, i);
            }
            vbc_wait(l->v, &l->r[i]);
            account(l, &l->r[i]);
        }
    }
    for (unsigned int i = 0; i < SLOTS; i++) {
        if (gone[i]) {
            vbc_check_reused(l->v, &l->r[i]);
        }
    }
}

/* What the model does not know, the disk does */
static void settle_all(Layers *l)
{
    for (unsigned int i = 0; i < SLOTS; i++) {
        VbcReq r = {
            .type = VIRTIO_BLK_T_IN, .tag = 1000, .sector = i * SLOT_SECTORS,
            .len = SLOT_BYTES,
        };

        vbc_do(l->v, &r, VIRTIO_BLK_S_OK);
        account(l, &r);
    }
}

static void run_rounds(Layers *l)
{
    for (unsigned int i = 0; i < ROUNDS; i++) {
        run_round(l);
        settle_all(l);
    }
}

/* Images */

static void new_dir(Layers *l)
{
    g_autofree char *raw = NULL;

    l->dir = g_dir_make_tmp("qtest-cancel.XXXXXX", NULL);
    g_assert_nonnull(l->dir);
    raw = g_build_filename(l->dir, "start", NULL);
    model_init(&l->model, raw);
}

static void remove_dir(Layers *l)
{
    g_autoptr(GDir) dir = g_dir_open(l->dir, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(l->dir, name, NULL);

        unlink(path);
    }
    rmdir(l->dir);
    g_free(l->dir);
    g_free(l->open);
}

static char *image_path(Layers *l, const char *name)
{
    return g_build_filename(l->dir, name, NULL);
}

/* Empty, as large as the disk */
static char *new_image(Layers *l, const char *name)
{
    g_assert_cmpint(vbc_qemu_img(l->dir, "create -q -f qcow2 @%s %d", name,
                                 BYTES), ==, 0);
    return image_path(l, name);
}

/* The image disk, with the contents of the model */
static void new_disk(Layers *l, const char *options)
{
    g_assert_cmpint(vbc_qemu_img(l->dir, "convert -f raw %s @start @disk",
                                 options), ==, 0);
}

static void make_room(Layers *l, const char *name)
{
    g_autofree char *path = image_path(l, name);

    g_assert_cmpint(truncate(path, FILE_SIZE), ==, 0);
}

/* The image @name, which nobody uses any more, is sound and as @m says. */
static void check_image(Layers *l, const Model *m, const char *name,
                        const char *format)
{
    g_autofree char *opts = l->open ?
                            g_strdup_printf("%s@%s", l->open, name) :
                            g_strdup_printf("-f %s @%s", format, name);

    if (!strcmp(format, "qcow2")) {
        g_assert_cmpint(vbc_qemu_img(l->dir, "check -q %s", opts), ==, 0);
    }
    g_assert_cmpint(vbc_qemu_img(l->dir, "convert %s -O raw @result", opts),
                    ==, 0);
    model_check(l, m, "result");
}

static bool start_layers(Layers *l, const void *base, const char *drive_all,
                         const char *args, const char *const *more)
{
    VbcOptions opts = *(const VbcOptions *)base;
    g_autofree char *image = image_path(l, "disk");

    opts.image = image;
    opts.server = true;
    opts.format = l->format;
    opts.drive_all = drive_all;
    opts.args = args;
    if (more) {
        opts.more[0] = more[0];
        opts.more[1] = more[1];
    }
    l->v = vbc_start(&opts);
    return l->v;
}

/* Everything on one image, called disk, is in @l. */
static void check_layers(Layers *l, const void *base, const char *drive_all,
                         const char *args)
{
    make_room(l, "disk");
    if (start_layers(l, base, drive_all, args, NULL)) {
        run_rounds(l);
        vbc_stop(l->v);
        check_image(l, &l->model, "disk", l->format);
    }
    remove_dir(l);
    g_free(l);
}

static Layers *new_layers(const char *format)
{
    Layers *l = g_new0(Layers, 1);

    new_dir(l);
    l->format = format;
    return l;
}

/* An image that qemu-img makes with these options */
static void check_converted(const void *base, const char *format,
                            const char *options)
{
    Layers *l = new_layers(format);

    new_disk(l, options);
    check_layers(l, base, NULL, NULL);
}

static void test_raw(const void *base)
{
    check_converted(base, "raw", "-O raw");
}

static void test_qcow2(const void *base)
{
    check_converted(base, "qcow2", "-O qcow2");
}

/* Small clusters: many tables, and requests of many clusters */
static void test_qcow2_small(const void *base)
{
    check_converted(base, "qcow2",
                    "-O qcow2 -o cluster_size=4096,refcount_bits=1");
}

static void test_qcow2_compressed(const void *base)
{
    check_converted(base, "qcow2", "-c -O qcow2");
}

static void test_qcow2_backing(const void *base)
{
    Layers *l = new_layers("qcow2");

    g_assert_cmpint(vbc_qemu_img(l->dir, "create -q -f qcow2 -b @start -F raw"
                                 " @disk"), ==, 0);
    check_layers(l, base, NULL, NULL);
}

#define SECRET "--object secret,id=sec0,data=sesame"

static void check_luks(const void *base, const char *format,
                       const char *prefix)
{
    Layers *l = new_layers(format);
    g_autofree char *drive = NULL;

    if (vbc_qemu_img(l->dir, "convert " SECRET " -f raw -O %s -o %skey-secret="
                     "sec0,%siter-time=10%s @start @disk", format, prefix,
                     prefix, *prefix ? ",encrypt.format=luks" : "")) {
        g_test_skip("needs a QEMU with a library for LUKS");
        remove_dir(l);
        g_free(l);
        return;
    }
    l->open = g_strdup_printf(SECRET " --image-opts driver=%s,%skey-secret="
                              "sec0,file.filename=", format, prefix);
    drive = g_strdup_printf("driver=%s,%skey-secret=sec0,discard=unmap,"
                            "file.driver=nbd,file.server.type=unix,"
                            "file.server.path=%s/disk.sock,file.export=disk",
                            format, prefix, l->dir);
    check_layers(l, base, drive, "-object secret,id=sec0,data=sesame");
}

static void test_luks(const void *base)
{
    check_luks(base, "luks", "");
}

static void test_qcow2_luks(const void *base)
{
    check_luks(base, "qcow2", "encrypt.");
}

static void test_blkdebug(const void *base)
{
    Layers *l = new_layers("qcow2");
    g_autofree char *drive = NULL;

    new_disk(l, "-O qcow2");
    drive = g_strdup_printf("driver=qcow2,discard=unmap,file.driver=blkdebug,"
                            "file.align=4096,file.image.driver=nbd,"
                            "file.image.server.type=unix,"
                            "file.image.server.path=%s/disk.sock,"
                            "file.image.export=disk", l->dir);
    check_layers(l, base, drive, NULL);
}

/* Three images that vote on each read */
static void test_quorum(const void *base)
{
    Layers *l = new_layers("raw");
    g_autofree char *disk1 = image_path(l, "disk1");
    g_autofree char *disk2 = image_path(l, "disk2");
    const char *const more[] = { disk1, disk2 };
    g_autoptr(GString) drive = g_string_new("driver=quorum,vote-threshold=2");

    for (unsigned int i = 0; i < 3; i++) {
        g_autofree char *name = i ? g_strdup_printf("disk%u", i)
                                  : g_strdup("disk");

        g_string_append_printf(drive, ",children.%u.driver=nbd,"
                               "children.%u.server.type=unix,"
                               "children.%u.server.path=%s/disk.sock,"
                               "children.%u.export=%s", i, i, i, l->dir, i,
                               name);
        g_assert_cmpint(vbc_qemu_img(l->dir, "convert -f raw -O raw @start @%s",
                                     name), ==, 0);
    }
    if (start_layers(l, base, drive->str, NULL, more)) {
        run_rounds(l);
        vbc_stop(l->v);
        check_image(l, &l->model, "disk", "raw");
        check_image(l, &l->model, "disk1", "raw");
        check_image(l, &l->model, "disk2", "raw");
    }
    remove_dir(l);
    g_free(l);
}

/* Storage without content that takes its time for everything */
static void test_null(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq r[SLOTS];
    Vbc *v;

    opts.drive_all = "driver=null-co,size=4M,read-zeroes=on,"
                     "latency-ns=200000000";
    v = vbc_start(&opts);
    for (unsigned int round = 0; round < 3; round++) {
        for (unsigned int i = 0; i < SLOTS; i++) {
            r[i] = (VbcReq) {
                .type = i % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
                .tag = i, .sector = 8 * i, .len = 4096,
                .queue = i % v->num_queues,
            };
            vbc_send(v, &r[i]);
        }
        for (unsigned int i = 0; i < SLOTS; i += 3) {
            vbc_cancel(v, r[i].queue, i, VIRTIO_BLK_S_OK);
            g_assert_cmpuint(r[i].order, !=, 0);
            vbc_reuse(v, &r[i]);
        }
        for (unsigned int i = 0; i < SLOTS; i++) {
            vbc_wait(v, &r[i]);
            if (i % 3) {
                g_assert_cmpint(r[i].status, ==, VIRTIO_BLK_S_OK);
            }
        }
        vbc_settle(v);
        for (unsigned int i = 0; i < SLOTS; i += 3) {
            vbc_check_reused(v, &r[i]);
        }
    }
    vbc_stop(v);
}

/* Block jobs */

static void wait_job(Layers *l, const char *event)
{
    qtest_qmp_eventwait(l->v->qts, event);
}

static void wait_job_completed(Layers *l)
{
    QDict *event = qtest_qmp_eventwait_ref(l->v->qts, "BLOCK_JOB_COMPLETED");
    QDict *data = qdict_get_qdict(event, "data");

    g_assert_null(qdict_get_try_str(data, "error"));
    qobject_unref(event);
}

static Layers *start_job_layers(const void *base)
{
    Layers *l = new_layers("qcow2");

    new_disk(l, "-O qcow2");
    make_room(l, "disk");
    if (!start_layers(l, base, NULL, NULL, NULL)) {
        remove_dir(l);
        g_free(l);
        return NULL;
    }
    run_round(l);
    settle_all(l);
    return l;
}

/*
 * A command that passes the gate.  A abandoned read fences nothing, and may be
 * under way when all is settled.
 */
static void G_GNUC_PRINTF(2, 3) graph_command(Layers *l, const char *fmt, ...)
{
    g_autofree char *command = NULL;
    va_list ap;

    va_start(ap, fmt);
    command = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_strdelimit(command, "'", '"');
    gate_patient_qmp(l->v->qts, command, NULL);
}

static void check_mirror(const void *base, const char *copy_mode)
{
    Layers *l = start_job_layers(base);
    g_autofree char *target = NULL;

    if (!l) {
        return;
    }
    target = new_image(l, "target");
    graph_command(l, "{'execute': 'drive-mirror',"
                  " 'arguments': {'job-id': 'job', 'device': 'drv',"
                  " 'target': '%s', 'format': 'qcow2',"
                  " 'mode': 'existing', 'sync': 'full',"
                  " 'copy-mode': '%s'}}", target, copy_mode);
    run_rounds(l);
    wait_job(l, "BLOCK_JOB_READY");
    run_rounds(l);

    /* Nothing is on its way any more, so both are equal when the job ends */
    graph_command(l, "{'execute': 'block-job-cancel',"
                  " 'arguments': {'device': 'job'}}");
    wait_job_completed(l);
    vbc_stop(l->v);
    check_image(l, &l->model, "disk", "qcow2");
    check_image(l, &l->model, "target", "qcow2");
    g_assert_cmpint(vbc_qemu_img(l->dir, "compare -q -f qcow2 -F qcow2"
                                 " @disk @target"), ==, 0);
    remove_dir(l);
    g_free(l);
}

static void test_mirror_background(const void *base)
{
    check_mirror(base, "background");
}

static void test_mirror_write_blocking(const void *base)
{
    check_mirror(base, "write-blocking");
}

/* The backup is what the disk was when it began */
static void test_backup(const void *base)
{
    Layers *l = start_job_layers(base);
    g_autofree Model *then = NULL;
    g_autofree char *target = NULL;

    if (!l) {
        return;
    }
    target = new_image(l, "target");
    then = g_memdup2(&l->model, sizeof(l->model));
    graph_command(l, "{'execute': 'drive-backup',"
                  " 'arguments': {'job-id': 'job', 'device': 'drv',"
                  " 'target': '%s', 'format': 'qcow2',"
                  " 'mode': 'existing', 'sync': 'full',"
                  " 'speed': 1}}", target);
    run_rounds(l);
    qtest_qmp_assert_success(l->v->qts, "{'execute': 'block-job-set-speed',"
                             " 'arguments': {'device': 'job', 'speed': 0}}");
    l->ending = true;
    run_rounds(l);
    wait_job_completed(l);
    l->ending = false;
    run_rounds(l);
    vbc_stop(l->v);
    check_image(l, &l->model, "disk", "qcow2");
    check_image(l, then, "target", "qcow2");
    remove_dir(l);
    g_free(l);
}

/* An overlay is committed while it is in use; then its base is the disk */
static void test_commit(const void *base)
{
    Layers *l = start_job_layers(base);
    g_autofree char *overlay = NULL;

    if (!l) {
        return;
    }
    overlay = new_image(l, "overlay");
    graph_command(l, "{'execute': 'blockdev-snapshot-sync',"
                  " 'arguments': {'device': 'drv',"
                  " 'snapshot-file': '%s', 'format': 'qcow2',"
                  " 'mode': 'existing'}}", overlay);
    run_rounds(l);
    graph_command(l, "{'execute': 'block-commit',"
                  " 'arguments': {'job-id': 'job',"
                  " 'device': 'drv'}}");
    run_rounds(l);
    wait_job(l, "BLOCK_JOB_READY");
    run_rounds(l);
    l->ending = true;
    graph_command(l, "{'execute': 'block-job-complete',"
                  " 'arguments': {'device': 'job'}}");
    run_rounds(l);
    wait_job_completed(l);
    l->ending = false;
    run_rounds(l);
    vbc_stop(l->v);
    check_image(l, &l->model, "disk", "qcow2");
    remove_dir(l);
    g_free(l);
}

void vbc_add_layer_tests(void)
{
    unsigned int loops = VBC_SETUP_PLAIN | VBC_SETUP_IOTHREADS;

    vbc_add_test("layers/null-co", loops, test_null);
    if (!have_qemu_img()) {
        g_test_message("the other layers need qemu-img");
        return;
    }
    vbc_add_test("layers/raw", loops, test_raw);
    vbc_add_test("layers/qcow2", loops, test_qcow2);
    vbc_add_test("layers/qcow2-small", VBC_SETUP_PLAIN, test_qcow2_small);
    vbc_add_test("layers/qcow2-compressed", loops, test_qcow2_compressed);
    vbc_add_test("layers/qcow2-backing", loops, test_qcow2_backing);
    vbc_add_test("layers/luks", VBC_SETUP_PLAIN, test_luks);
    vbc_add_test("layers/qcow2-luks", loops, test_qcow2_luks);
    vbc_add_test("layers/blkdebug", VBC_SETUP_PLAIN, test_blkdebug);
    vbc_add_test("layers/quorum", loops, test_quorum);
    vbc_add_test("job/mirror-background", loops, test_mirror_background);
    vbc_add_test("job/mirror-write-blocking", loops,
                 test_mirror_write_blocking);
    vbc_add_test("job/backup", loops, test_backup);
    vbc_add_test("job/commit", loops, test_commit);
}
