/* SPDX-License-Identifier: MIT */
/*
 * Points where a test may let the process end. Every store to the journal or to the ring that a
 * recovery depends on has one before it; a copy has one before each word, so that torn copies are
 * tried too. A build with BLK_INJECT (tests/fakes/block/native) chooses where to stop; in any other
 * build a point is nothing.
 */
#ifndef XENBACKD_BLK_POINT_H
#define XENBACKD_BLK_POINT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef BLK_INJECT
void blk_inject_point(void);
#else
static inline void blk_inject_point(void)
{
}
#endif

static inline void store_bytes(uint8_t *to, const uint8_t *from, size_t bytes)
{
#ifdef BLK_INJECT
    for (size_t at = 0; at < bytes; at += 4) {
        blk_inject_point();
        memcpy(to + at, from + at, 4);
    }
#else
    memcpy(to, from, bytes);
#endif
}

#endif
