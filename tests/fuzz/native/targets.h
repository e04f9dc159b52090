/* SPDX-License-Identifier: MIT */
/* The targets: each takes one input to its end, or ends the process with what it found. */
#ifndef XENBACKD_FUZZ_TARGETS_H
#define XENBACKD_FUZZ_TARGETS_H

#include <stddef.h>
#include <stdint.h>

void fuzz_request(const uint8_t *data, size_t size);
void fuzz_ring(const uint8_t *data, size_t size);
void fuzz_journal(const uint8_t *data, size_t size);
void fuzz_merge(const uint8_t *data, size_t size);

#endif
