/*
 * Runs inputs of a fuzz target without a fuzzer
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * cancel-fuzz-replay --fuzz-target=NAME CORPUS, with one input a line, in hex.
 * Prints TAP.  An input that fails ends the program.
 */

#include "qemu/osdep.h"
#include "fuzz.h"

static GByteArray *replay_parse(const char *line)
{
    GByteArray *input = g_byte_array_new();

    while (g_ascii_isxdigit(line[0]) && g_ascii_isxdigit(line[1])) {
        uint8_t byte = g_ascii_xdigit_value(line[0]) << 4 |
                       g_ascii_xdigit_value(line[1]);

        g_byte_array_append(input, &byte, 1);
        line += 2;
    }
    if (*line) {
        fprintf(stderr, "not hexadecimal: %s\n", line);
        exit(1);
    }
    return input;
}

static GPtrArray *replay_load(const char *name)
{
    GPtrArray *inputs =
        g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);
    g_autoptr(GError) err = NULL;
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    if (!g_file_get_contents(name, &text, NULL, &err)) {
        fprintf(stderr, "%s\n", err->message);
        exit(1);
    }
    lines = g_strsplit(text, "\n", 0);
    for (unsigned int i = 0; lines[i]; i++) {
        if (*lines[i] && *lines[i] != '#') {
            g_ptr_array_add(inputs, replay_parse(lines[i]));
        }
    }
    return inputs;
}

int main(int argc, char **argv)
{
    g_autoptr(GPtrArray) inputs = NULL;

    if (argc != 3) {
        fprintf(stderr, "Usage: %s --fuzz-target=NAME CORPUS\n", argv[0]);
        return 1;
    }
    inputs = replay_load(argv[2]);
    LLVMFuzzerInitialize(&argc, &argv, NULL);

    printf("1..%u\n", inputs->len);
    for (unsigned int i = 0; i < inputs->len; i++) {
        GByteArray *input = g_ptr_array_index(inputs, i);

        LLVMFuzzerTestOneInput(input->data, input->len);
        printf("ok %u input-%u\n", i + 1, i + 1);
        fflush(stdout);
    }
    return 0;
}
