/*
 * Fuzz target: NVMe with cancel=on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The first byte of an input chooses the controller; the rest are operations,
 * see ops[].  A command's identifier is the number of its slot, which has its
 * data.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "cancel_fuzz.h"

/* From the specification, in numbers, as in nvme-cancel-lib.h */
#define REG_CC          0x14
#define REG_AQA         0x24
#define REG_ASQ         0x28
#define REG_ACQ         0x30
#define REG_DOORBELL    0x1000
#define CC_EN           0x00460001      /* entries of 64 and 16 bytes */
#define CC_SHN_NORMAL   0x4000
#define CC_SHN_ABRUPT   0x8000
#define SQE_SIZE        64
#define CQE_SIZE        16

#define ADM_DELETE_SQ   0x00
#define ADM_CREATE_SQ   0x01
#define ADM_DELETE_CQ   0x04
#define ADM_CREATE_CQ   0x05
#define ADM_ABORT       0x08
#define ADM_GET_FEATURE 0x0a
#define ADM_FORMAT      0x80

#define CMD_FLUSH       0x00
#define CMD_WRITE       0x01
#define CMD_READ        0x02
#define CMD_COMPARE     0x05
#define CMD_ZEROES      0x08
#define CMD_DSM         0x09
#define CMD_VERIFY      0x0c
#define CMD_COPY        0x19

#define OK              0x000
#define NAMESPACES      2       /* the second one has metadata */
#define QUEUES          3       /* the first is for admin commands */
#define ENTRIES         16
#define SLOTS           40
#define RINGS           0x100000        /* guest addresses */
#define RING_SIZE       0x2000
#define DATA            0x200000
#define DATA_SIZE       0x2000
#define MAX_OPS         200

typedef struct Slot {
    bool busy;
    bool poisoned;
    unsigned int queue;
    uint8_t opcode;
    unsigned int other;         /* queue, of an admin command */
    unsigned int nsid;
    uint64_t slba;
    unsigned int blocks;
    uint32_t serial;            /* of a write, or 0 */
    unsigned int order;         /* of what was sent or has ended, from 1 */
    unsigned int used_order;
    bool given_up;
} Slot;

typedef struct Queue {
    bool enabled;
    unsigned int tail;          /* of the submission queue */
    unsigned int head;          /* of the completion queue */
    unsigned int phase;
    unsigned int num_busy;
} Queue;

static const char *const configs[] = { "", ",ioeventfd=on" };

static FuzzPCI controllers[ARRAY_SIZE(configs)];
static FuzzPCI *ctrl;
static QTestState *qts;
static Queue queues[QUEUES];
static Slot slots[SLOTS];
static unsigned int counter;
static uint32_t last_serial;
static bool hostile;
static bool live;

static GString *nvme_cmdline(FuzzTarget *t)
{
    GString *cmd = fuzz_machine();

    for (unsigned int i = 0; i < ARRAY_SIZE(configs); i++) {
        fuzz_machine_port(cmd, i);
        g_string_append_printf(cmd, " -device nvme,id=n%u,bus=p%u,serial=%u,"
                               "max_ioqpairs=%u%s", i, i, i, QUEUES - 1,
                               configs[i]);
        for (unsigned int ns = 0; ns < NAMESPACES; ns++) {
            unsigned int disk = i * NAMESPACES + ns;

            fuzz_machine_disk(cmd, disk, "");
            g_string_append_printf(cmd, " -device nvme-ns,bus=n%u,nsid=%u,"
                                   "drive=d%u,cancel=%s%s", i, ns + 1, disk,
                                   fuzz_cancel("on"), ns ? ",ms=8,mset=1" : "");
        }
    }
    return cmd;
}

static uint64_t sq_addr(unsigned int queue)
{
    return RINGS + queue * RING_SIZE;
}

static uint64_t cq_addr(unsigned int queue)
{
    return RINGS + queue * RING_SIZE + RING_SIZE / 2;
}

static uint64_t data_addr(Slot *s)
{
    return DATA + (s - slots) * DATA_SIZE;
}

static void write_reg(uint64_t offset, uint32_t value)
{
    qtest_writel(qts, ctrl->bar + offset, value);
}

/* Slots */

static void poison(Slot *s)
{
    memset(fuzz_ram(data_addr(s)), FUZZ_POISON, DATA_SIZE);
    s->poisoned = true;
}

static void check_poison(Slot *s)
{
    const uint8_t *mem = fuzz_ram(data_addr(s));

    if (s->poisoned && !hostile) {
        FUZZ_CHECK(mem[0] == FUZZ_POISON);
        FUZZ_CHECK(!memcmp(mem, mem + 1, DATA_SIZE - 1));
    }
}

static Slot *new_slot(unsigned int queue)
{
    Slot *oldest = NULL;

    if (!live || !queues[queue].enabled ||
        queues[queue].num_busy == ENTRIES - 1) {
        return NULL;
    }
    for (unsigned int i = 0; i < SLOTS; i++) {
        Slot *s = &slots[i];

        if (!s->busy && (!oldest || s->used_order < oldest->used_order)) {
            oldest = s;
        }
    }
    if (oldest) {
        check_poison(oldest);
        *oldest = (Slot) { .queue = queue };
    }
    return oldest;
}

/* The @n-th of the commands that have been sent and have not ended, or NULL */
static Slot *pick(unsigned int n)
{
    Slot *found[SLOTS];
    unsigned int num = 0;

    for (unsigned int i = 0; i < SLOTS; i++) {
        if (slots[i].busy) {
            found[num++] = &slots[i];
        }
    }
    return num ? found[n % num] : NULL;
}

static void over(Slot *s)
{
    s->busy = false;
    s->used_order = ++counter;
    queues[s->queue].num_busy--;
    poison(s);
}

/* What is left in a queue that is gone will not end any more. */
static void give_up(unsigned int queue)
{
    for (unsigned int i = 0; i < SLOTS; i++) {
        if (slots[i].busy && slots[i].queue == queue) {
            slots[i].given_up = true;
            over(&slots[i]);
        }
    }
    queues[queue].enabled = false;
}

static void forget(void)
{
    for (unsigned int i = 0; i < QUEUES; i++) {
        give_up(i);
    }
    live = false;
}

static void new_queue(unsigned int queue)
{
    queues[queue] = (Queue) { .phase = 1 };
    memset(fuzz_ram(sq_addr(queue)), 0, RING_SIZE);
}

/* Completions */

/* Every write that was given up before @s was sent has ended. */
static void check_settled(Slot *s)
{
    for (unsigned int i = 0; i < SLOTS; i++) {
        Slot *old = &slots[i];

        if (old->given_up && old->serial && old->used_order < s->order &&
            old->nsid == s->nsid && old->slba < s->slba + s->blocks &&
            s->slba < old->slba + old->blocks) {
            FUZZ_CHECK(!fuzz_disk_is_writing(old->serial));
        }
    }
}

static void ended(Slot *s, uint16_t status)
{
    if (s->queue) {
        if (status == OK && s->blocks) {
            check_settled(s);
        }
        s->given_up = status != OK;
    } else if (status == OK && s->opcode == ADM_DELETE_SQ) {
        give_up(s->other);
    } else if (status == OK && s->opcode == ADM_CREATE_SQ) {
        queues[s->other].enabled = true;
    }
    over(s);
}

static bool reap_one(unsigned int queue)
{
    Queue *q = &queues[queue];
    const uint8_t *cqe = fuzz_ram(cq_addr(queue) + q->head * CQE_SIZE);
    uint16_t status = lduw_le_p(cqe + 14), cid = lduw_le_p(cqe + 12);

    if ((status & 1) != q->phase) {
        return false;
    }
    q->head = (q->head + 1) % ENTRIES;
    q->phase ^= !q->head;
    FUZZ_CHECK(cid < SLOTS);
    FUZZ_CHECK(slots[cid].busy && slots[cid].queue == lduw_le_p(cqe + 10));
    ended(&slots[cid], status >> 1);
    return true;
}

static void reap(void)
{
    /* The admin queue last: it may say that one of the others is gone */
    for (unsigned int i = QUEUES; i-- > 0 && live && !hostile;) {
        unsigned int head = queues[i].head;

        while (reap_one(i)) {
            /* nothing */
        }
        if (queues[i].head != head) {
            write_reg(REG_DOORBELL + i * 8 + 4, queues[i].head);
        }
    }
}

/* Commands */

static void add_command(Slot *s, const uint8_t *sqe)
{
    Queue *q = &queues[s->queue];
    uint8_t *at = fuzz_ram(sq_addr(s->queue) + q->tail * SQE_SIZE);

    memcpy(at, sqe, SQE_SIZE);
    at[0] = s->opcode;
    stw_le_p(at + 2, s - slots);
    q->tail = (q->tail + 1) % ENTRIES;
    q->num_busy++;
    s->busy = true;
    s->order = ++counter;
}

static void ring(unsigned int queue)
{
    write_reg(REG_DOORBELL + queue * 8, queues[queue].tail);
}

static void send_admin(uint8_t opcode, unsigned int other, uint64_t addr,
                       uint32_t cdw10, uint32_t cdw11)
{
    uint8_t sqe[SQE_SIZE] = {};
    Slot *s = new_slot(0);

    if (s) {
        s->opcode = opcode;
        s->other = other;
        stq_le_p(sqe + 24, addr);
        stl_le_p(sqe + 40, cdw10);
        stl_le_p(sqe + 44, cdw11);
        add_command(s, sqe);
    }
}

static void create_sq(unsigned int queue)
{
    send_admin(ADM_CREATE_SQ, queue, sq_addr(queue),
               (ENTRIES - 1) << 16 | queue, queue << 16 | 1);
}

static void start(void)
{
    counter++;
    for (unsigned int i = 0; i < QUEUES; i++) {
        new_queue(i);
    }
    write_reg(REG_AQA, (ENTRIES - 1) << 16 | (ENTRIES - 1));
    write_reg(REG_ASQ, sq_addr(0));
    write_reg(REG_ASQ + 4, 0);
    write_reg(REG_ACQ, cq_addr(0));
    write_reg(REG_ACQ + 4, 0);
    write_reg(REG_CC, CC_EN);
    live = queues[0].enabled = true;
    for (unsigned int i = 1; i < QUEUES; i++) {
        send_admin(ADM_CREATE_CQ, i, cq_addr(i), (ENTRIES - 1) << 16 | i, 1);
        create_sq(i);
    }
    ring(0);
    fuzz_run(64);
    reap();
}

static void disable(void)
{
    write_reg(REG_CC, CC_EN & ~1);
    reap();
    forget();
}

static void put_io(Slot *s, uint8_t *sqe, uint8_t flags)
{
    uint8_t *data = fuzz_ram(data_addr(s));

    stl_le_p(sqe + 4, s->nsid);
    stq_le_p(sqe + 24, data_addr(s));
    stq_le_p(sqe + 32, data_addr(s) + DATA_SIZE / 2);
    stq_le_p(sqe + 40, s->slba);
    stl_le_p(sqe + 48, (s->blocks - 1) | (flags & 1 ? 1u << 30 : 0)); /* FUA */

    switch (s->opcode) {
    case CMD_WRITE:
        s->serial = ++last_serial;
        /* fall through */
    case CMD_COMPARE:
        memset(data, FUZZ_DATA, DATA_SIZE);
        fuzz_disk_fill(data, s->blocks * FUZZ_SECTOR, s->serial);
        break;
    case CMD_DSM:
        memset(data, 0, 32);
        for (unsigned int i = 0; i < 2; i++) {
            stl_le_p(data + i * 16 + 4, s->blocks);
            stq_le_p(data + i * 16 + 8, s->slba + i * 64);
        }
        stl_le_p(sqe + 40, flags & 1);
        stl_le_p(sqe + 44, 4);                      /* deallocate */
        break;
    case CMD_COPY:
        memset(data, 0, 64);
        for (unsigned int i = 0; i < 2; i++) {
            stq_le_p(data + i * 32 + 8, 128 + i * 32);
            stw_le_p(data + i * 32 + 16, s->blocks - 1);
        }
        stl_le_p(sqe + 48, flags & 1);
        break;
    case CMD_FLUSH:
        stl_le_p(sqe + 4, flags & 1 ? UINT32_MAX : s->nsid);
        s->blocks = 0;
    }
}

static void op_command(FuzzInput *in)
{
    static const uint8_t opcodes[] = {
        CMD_READ, CMD_WRITE, CMD_FLUSH, CMD_ZEROES, CMD_DSM, CMD_VERIFY,
        CMD_COPY, CMD_COMPARE,
    };
    static const unsigned int blocks[] = { 1, 2, 8, 14 };
    uint8_t what = fuzz_byte(in), where = fuzz_byte(in);
    Slot *s = new_slot(1 + (what >> 3 & 1));
    uint8_t sqe[SQE_SIZE] = {};

    if (!s) {
        return;
    }
    s->opcode = opcodes[what % ARRAY_SIZE(opcodes)];
    s->nsid = 1 + (what >> 4 & 1);
    s->slba = where & 63;
    s->blocks = blocks[where >> 6];
    if (s->nsid > 1 || s->opcode == CMD_COPY) {
        /* Blocks are not where a write's are, or copied */
        fuzz_disk_check(false);
    }
    put_io(s, sqe, what >> 5);
    add_command(s, sqe);
    if (what >> 7) {
        ring(s->queue);
    }
}

static void op_abort(FuzzInput *in)
{
    uint8_t which = fuzz_byte(in), how = fuzz_byte(in);
    Slot *target = pick(which);
    unsigned int queue = how >> 6 & 3, cid = which;

    if (target && !(how & 8)) {
        queue = target->queue;
        cid = target - slots;
    }
    send_admin(ADM_ABORT, 0, 0, cid << 16 | queue, 0);
    if (how & 1) {
        ring(0);
    }
}

static void op_delete_sq(FuzzInput *in)
{
    unsigned int queue = 1 + (fuzz_byte(in) & 1);

    if (queues[queue].enabled) {
        send_admin(ADM_DELETE_SQ, queue, 0, queue, 0);
        ring(0);
    }
}

/* Its completion queue is still there, and goes on where it was. */
static void op_create_sq(FuzzInput *in)
{
    unsigned int queue = 1 + (fuzz_byte(in) & 1);

    if (live && !queues[queue].enabled) {
        queues[queue].tail = 0;
        create_sq(queue);
        ring(0);
    }
}

static void op_admin(FuzzInput *in)
{
    static const uint8_t opcodes[] = { ADM_GET_FEATURE, ADM_FORMAT,
                                       ADM_DELETE_CQ, ADM_FORMAT };
    uint8_t what = fuzz_byte(in);
    uint8_t sqe[SQE_SIZE] = {};
    Slot *s = new_slot(0);

    if (s) {
        s->opcode = opcodes[what % ARRAY_SIZE(opcodes)];
        stl_le_p(sqe + 4, what >> 4 & 1 ? UINT32_MAX : 1 + (what >> 5 & 1));
        stl_le_p(sqe + 40, s->opcode == ADM_GET_FEATURE ? 6 : what >> 7);
        if (s->opcode == ADM_FORMAT) {
            /* It writes zeroes over all, and each namespace stays as it is */
            stl_le_p(sqe + 4, 1);
            stl_le_p(sqe + 40, 0);
        }
        add_command(s, sqe);
        ring(0);
    }
}

/* Any command, with any pointers */
static void op_any(FuzzInput *in)
{
    uint8_t sqe[SQE_SIZE] = {};
    uint8_t which = fuzz_byte(in);
    Slot *s;

    hostile = true;
    fuzz_disk_check(false);
    s = new_slot(which % QUEUES);
    if (s) {
        for (unsigned int i = 0; i < SQE_SIZE; i++) {
            sqe[i] = fuzz_byte(in);
        }
        s->opcode = sqe[0];
        if (which & 0x80) {
            put_io(s, sqe, which >> 6);
            stq_le_p(sqe + 24, ctrl->bar + fuzz_bytes(in, 2) % 0x4000);
        }
        add_command(s, sqe);
    }
}

static void op_ring(FuzzInput *in)
{
    ring(fuzz_byte(in) % QUEUES);
}

static void op_send_all(FuzzInput *in)
{
    for (unsigned int i = QUEUES; i-- > 0;) {
        ring(i);
    }
    fuzz_run(fuzz_byte(in));
}

static void op_reap(FuzzInput *in)
{
    reap();
}

/* Resets, and what the host does */

static void op_reset(FuzzInput *in)
{
    disable();
    start();
}

static void op_shutdown(FuzzInput *in)
{
    uint8_t how = fuzz_byte(in);

    write_reg(REG_CC, CC_EN | (how & 1 ? CC_SHN_ABRUPT : CC_SHN_NORMAL));
    fuzz_run(how >> 1);
    disable();
    start();
}

static void op_flr(FuzzInput *in)
{
    fuzz_pci_flr(ctrl);
    reap();
    forget();
    start();
}

/* Anything */

static void op_write_register(FuzzInput *in)
{
    uint16_t offset = fuzz_bytes(in, 2) % 0x1040;

    hostile = true;
    fuzz_disk_check(false);
    write_reg(offset & ~3, fuzz_bytes(in, 4));
}

static void (*const ops[])(FuzzInput *in) = {
    op_command, op_command, op_command, op_abort, op_abort, op_send_all,
    op_ring, fuzz_op_run, fuzz_op_plan, fuzz_op_default, fuzz_op_release,
    fuzz_op_release_all, op_reap, op_reset, op_shutdown, op_flr, op_delete_sq,
    op_create_sq, op_admin, fuzz_op_stop_cont, fuzz_op_drain, op_any,
    op_write_register,
};

static bool nvme_idle(void)
{
    reap();
    if (hostile || !live) {
        return true;
    }
    for (unsigned int i = 0; i < SLOTS; i++) {
        if (slots[i].busy) {
            return false;
        }
    }
    return true;
}

static void nvme_fuzz(QTestState *s, const unsigned char *data, size_t size)
{
    FuzzInput in = { .data = data, .size = size };

    ctrl = &controllers[fuzz_byte(&in) % ARRAY_SIZE(controllers)];
    hostile = false;
    last_serial = 0;
    start();
    for (unsigned int i = 0; in.size && i < MAX_OPS; i++) {
        ops[fuzz_byte(&in) % ARRAY_SIZE(ops)](&in);
    }

    for (unsigned int i = 0; i < QUEUES; i++) {
        ring(i);
    }
    fuzz_settle(s, nvme_idle);
    if (hostile) {
        fuzz_pci_flr(ctrl);
        forget();
    } else {
        disable();
    }
    fuzz_settle(s, nvme_idle);
    for (unsigned int i = 0; i < SLOTS; i++) {
        check_poison(&slots[i]);
        slots[i] = (Slot) {};
    }
}

static void nvme_pre_fuzz(QTestState *s)
{
    qts = s;
    for (unsigned int i = 0; i < ARRAY_SIZE(controllers); i++) {
        g_autofree char *id = g_strdup_printf("n%u", i);

        fuzz_pci_find(&controllers[i], id, i, 0);
    }
    fuzz_disk_reset();
}

static void register_targets(void)
{
    fuzz_add_target(&(FuzzTarget) {
        .name = "nvme-abort-fuzz",
        .description = "nvme: Abort and resets while storage hangs",
        .get_init_cmdline = nvme_cmdline,
        .pre_fuzz = nvme_pre_fuzz,
        .fuzz = nvme_fuzz,
    });
}

fuzz_target_init(register_targets);
