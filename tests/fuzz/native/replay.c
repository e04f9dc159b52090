/* SPDX-License-Identifier: MIT */
/*
 * Runs each file of a corpus once, without a fuzzer and with any compiler:
 * replay TARGET FILE... A broken promise ends it with SIGABRT after the file's name.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "targets.h"

#define INPUT_MAX (64u * 1024u)

static const struct {
    const char *name;
    void (*run)(const uint8_t *data, size_t size);
} TARGETS[] = {
    {"request", fuzz_request},
    {"ring", fuzz_ring},
    {"journal", fuzz_journal},
    {"merge", fuzz_merge},
};

static int replay(void (*run)(const uint8_t *, size_t), const char *path)
{
    uint8_t *data = malloc(INPUT_MAX);
    FILE *file = fopen(path, "rb");
    size_t size;

    if (!file || !data) {
        perror(path);
        free(data);
        return 1;
    }
    size = fread(data, 1, INPUT_MAX, file);
    fclose(file);
    fprintf(stderr, "%s\n", path);
    run(data, size);
    free(data);
    return 0;
}

int main(int count, char **words)
{
    int failed = 0;

    for (size_t i = 0; count > 1 && i < sizeof(TARGETS) / sizeof(TARGETS[0]); i++) {
        if (strcmp(words[1], TARGETS[i].name) != 0)
            continue;
        for (int n = 2; n < count; n++)
            failed |= replay(TARGETS[i].run, words[n]);
        return failed;
    }
    fprintf(stderr, "usage: replay request|ring|journal|merge FILE...\n");
    return 64;
}
