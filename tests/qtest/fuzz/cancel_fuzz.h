/*
 * What the fuzz targets of devices with cancel= stand on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An input is a sequence of small operations: each byte that a target takes
 * from it is a choice, and there is one for each byte, so that a mutation stays
 * an input that goes deep.  A missing byte is 0.
 *
 * Below the devices is a block driver of this directory, "fuzz-disk", whose
 * requests end at once, later, in an error, or hang until they are let go.
 *
 * As long as the guest keeps to the rules its memory is checked as well: what
 * was given back is poisoned, and must stay as it is.  After the first
 * operation that breaks them (hostile) only QEMU itself is watched, by the
 * sanitizers.
 */

#ifndef TESTS_QTEST_FUZZ_CANCEL_FUZZ_H
#define TESTS_QTEST_FUZZ_CANCEL_FUZZ_H

#include "hw/pci/pci_device.h"
#include "fuzz.h"

#define FUZZ_SECTOR     512
#define FUZZ_DISK_SIZE  (128 * KiB)
#define FUZZ_POISON     0xd1    /* memory nobody may touch */
#define FUZZ_DATA       0x11    /* what is written, behind its serial */

/* What is checked; unlike g_assert() it says what was expected. */
#define FUZZ_CHECK(cond) do {                                           \
    if (!(cond)) {                                                      \
        fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__,    \
                #cond);                                                 \
        abort();                                                        \
    }                                                                   \
} while (0)

/* The input; set by the target, consumed from its beginning */
typedef struct FuzzInput {
    const uint8_t *data;
    size_t size;
} FuzzInput;

static inline uint8_t fuzz_byte(FuzzInput *in)
{
    if (!in->size) {
        return 0;
    }
    in->size--;
    return *in->data++;
}

static inline uint64_t fuzz_bytes(FuzzInput *in, unsigned int num)
{
    uint64_t value = 0;

    while (num--) {
        value = value << 8 | fuzz_byte(in);
    }
    return value;
}

/*
 * The storage
 */

/* What becomes of a request; bits 3 and 4 choose the error */
enum {
    FUZZ_DISK_END,
    FUZZ_DISK_END_LATER,
    FUZZ_DISK_FAIL,
    FUZZ_DISK_FAIL_LATER,
    FUZZ_DISK_HANG,             /* up to FUZZ_DISK__MAX: hangs as well */
    FUZZ_DISK__MAX = 8,
};

/* Forget everything; nothing hangs. */
void fuzz_disk_reset(void);

/* What becomes of the next request for which nothing is planned yet. */
void fuzz_disk_plan(uint8_t what);

/* What becomes of requests for which nothing is planned. */
void fuzz_disk_default(uint8_t what);

/* One or all that hang end, as @what says: end or fail. */
void fuzz_disk_release(unsigned int index, uint8_t what);
void fuzz_disk_release_all(void);

/* Whether a write of that serial has not ended; serials are never 0. */
bool fuzz_disk_is_writing(uint32_t serial);

/* Write the data of a request: each sector begins with the serial. */
void fuzz_disk_fill(uint8_t *buf, size_t len, uint32_t serial);

/* Look at what is written: never poison. */
void fuzz_disk_check(bool on);

/*
 * The machine: all devices are behind root ports, named p0 and so on
 */

typedef struct FuzzPCI {
    PCIDevice *dev;
    unsigned int index;         /* of the port */
    unsigned int bar_nr;
    uint64_t bar;               /* its address */
} FuzzPCI;

/* The beginning of a command line, and the port of device @index */
GString *fuzz_machine(void);
void fuzz_machine_port(GString *cmd, unsigned int index);

/* The disk of device @index, named d0 and so on; @more: of -drive, or "" */
void fuzz_machine_disk(GString *cmd, unsigned int index, const char *more);

/* "off" if stock QEMU is to be fuzzed for comparison, which is FUZZ_STOCK=1 */
const char *fuzz_cancel(const char *mode);

/* Find device @id behind port @index, and map its BAR. */
void fuzz_pci_find(FuzzPCI *pci, const char *id, unsigned int index,
                   unsigned int bar_nr);
void fuzz_pci_bus_master(FuzzPCI *pci, bool on);

/* A function-level reset; it is configured again then. */
void fuzz_pci_flr(FuzzPCI *pci);

/* The guest's memory, at 0 */
uint8_t *fuzz_ram(uint64_t addr);

/* Run events, @num at most.  Returns: whether there was nothing to do. */
bool fuzz_run(unsigned int num);

/* Stop the VM, and continue.  What hangs ends before. */
void fuzz_stop_cont(void);

/* Begin or end a drained section of all disks.  What hangs ends before. */
void fuzz_drain(bool begin);

/* Everything ends: storage, drained section, throttling. */
void fuzz_settle(QTestState *s, bool (*idle)(void));

/*
 * Operations that are the same for all devices
 */
void fuzz_op_run(FuzzInput *in);
void fuzz_op_plan(FuzzInput *in);
void fuzz_op_default(FuzzInput *in);
void fuzz_op_release(FuzzInput *in);
void fuzz_op_release_all(FuzzInput *in);
void fuzz_op_stop_cont(FuzzInput *in);
void fuzz_op_drain(FuzzInput *in);

#endif
