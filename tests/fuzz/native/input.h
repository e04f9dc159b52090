/* SPDX-License-Identifier: MIT */
/*
 * The bytes of one fuzz case, read from front to back. What is missing at the end reads as 0, so
 * every input is a case, and each of its prefixes a simpler one.
 */
#ifndef XENBACKD_FUZZ_INPUT_H
#define XENBACKD_FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct input {
    const uint8_t *at, *end;
};

static inline bool input_left(const struct input *input)
{
    return input->at < input->end;
}

static inline uint64_t input_take(struct input *input, size_t bytes)
{
    uint64_t value = 0;
    size_t left = (size_t)(input->end - input->at);
    size_t taken = bytes < left ? bytes : left;

    if (taken)
        memcpy(&value, input->at, taken);
    input->at += taken;
    return value;
}

static inline uint8_t take8(struct input *input)
{
    return (uint8_t)input_take(input, 1);
}

static inline uint16_t take16(struct input *input)
{
    return (uint16_t)input_take(input, 2);
}

static inline uint32_t take32(struct input *input)
{
    return (uint32_t)input_take(input, 4);
}

static inline uint64_t take64(struct input *input)
{
    return input_take(input, 8);
}

/* What the code under test promises; a promise that is broken ends the process. */
#define CHECK(holds, ...)                                                                          \
    do {                                                                                           \
        if (!(holds)) {                                                                            \
            fprintf(stderr, "broken promise: %s (%s:%d): ", #holds, __FILE__, __LINE__);           \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
