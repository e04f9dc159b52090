/* SPDX-License-Identifier: MIT */
/*
 * The block interface on the wire (xen/include/public/io/blkif.h, ring.h). Offsets stand here
 * instead of structs, since one 64-bit backend serves both layouts:
 *
 *   struct blkif_request {          x86_64 / arm     x86_32
 *       uint8_t  operation;              0               0
 *       uint8_t  nr_segments;            1               1     (discard: flag)
 *       uint16_t handle;                 2               2
 *       uint64_t id;                     8               4
 *       uint64_t sector_number;         16              12     512-byte units, always
 *       struct { uint32_t gref; uint8_t first_sect, last_sect; } seg[11];
 *                                       24              20     8 bytes each
 *   }                                  112             108     bytes
 *   discard: uint64_t nr_sectors       24              20
 *   struct blkif_response { uint64_t id@0; uint8_t operation@8; int16_t status@10; }
 *                                       16              12     bytes
 *
 * A slot is as large as the larger of the two; the number of slots is the largest power of two
 * that fits behind the 64-byte ring header.
 */
#ifndef XENBACKD_BLKIF_H
#define XENBACKD_BLKIF_H

#include <stdint.h>

#include "shared/native/ring_page.h"

#define BLKIF_OP_READ 0
#define BLKIF_OP_WRITE 1
#define BLKIF_OP_WRITE_BARRIER 2
#define BLKIF_OP_FLUSH_DISKCACHE 3
#define BLKIF_OP_DISCARD 5
#define BLKIF_OP_INDIRECT 6

#define BLKIF_RSP_OKAY 0
#define BLKIF_RSP_ERROR (-1)
#define BLKIF_RSP_EOPNOTSUPP (-2)

#define BLKIF_MAX_SEGMENTS 11u
#define BLKIF_SECTOR 512u
#define BLKIF_SECTORS_PER_PAGE 8u
#define BLKIF_MAX_RING_ORDER 4u

struct blkif_layout {
    uint32_t slot;
    uint32_t id;
    uint32_t sector;
    uint32_t segments; /* also nr_sectors of a discard */
    uint32_t response;
};

static const struct blkif_layout BLKIF_64 = {112, 8, 16, 24, 16};
static const struct blkif_layout BLKIF_32 = {108, 4, 12, 20, 12};

/* Slots of a ring of 2^order pages. */
static inline uint32_t blkif_ring_slots(const struct blkif_layout *layout, uint32_t order)
{
    uint32_t fit = ((4096u << order) - RING_HEADER) / layout->slot;
    uint32_t slots = 1;
    while (slots * 2 <= fit)
        slots *= 2;
    return slots;
}

#endif
