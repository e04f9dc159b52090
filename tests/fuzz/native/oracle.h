/* SPDX-License-Identifier: MIT */
/*
 * What the interface says about a request (xen/include/public/io/blkif.h), read by code other than
 * the code under test: with wide arithmetic instead of careful subtraction.
 */
#ifndef XENBACKD_FUZZ_ORACLE_H
#define XENBACKD_FUZZ_ORACLE_H

#include "blk_internal.h"

struct oracle_segment {
    uint32_t ref;
    uint8_t first, last; /* sectors of the page, both included */
};

struct oracle_request {
    uint64_t id, sector, count; /* 512-byte units */
    uint8_t operation, segments;
    int16_t status; /* OKAY: it may run; otherwise its answer */
    struct oracle_segment segment[BLKIF_MAX_SEGMENTS];
};

struct oracle_request oracle_read(const struct blk_config *config, bool layout32,
                                  const uint8_t *slot);

#endif
