/* SPDX-License-Identifier: MIT */
/* What the two halves of the double-fetch test share: see blk_flip.c and blk_flip_host.c. */
#ifndef XENBACKD_BLK_FLIP_INTERNAL_H
#define XENBACKD_BLK_FLIP_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#include "blk_api.h"
#include "worker/devices/block/native/blkif.h"
#include "blk_flip.h"

#define BOUNCE_BYTES (64ull * BLKIF_MAX_SEGMENTS * HV_PAGE_SIZE)

struct flip_area {
    uint8_t *start; /* of the pages; one that cannot be touched lies before and behind */
    uint32_t count;
    struct flip_area *next;
};

struct flip {
    struct flip_config config;
    struct hv_ops ops;
    struct blk_disk disk;
    uint8_t *ring; /* likewise between two pages that cannot be touched */
    int memory;    /* FLIP_PAGES pages of the guest's */
    uint8_t *pages;
    int event;
    struct flip_area *areas;
    uint8_t *lowest, *highest; /* of the memory data was copied through */
    uint32_t prod;
    uint64_t random;
    pthread_t thread;
    bool running, producer;
    uint32_t stop; /* atomic */
    uint32_t rung; /* atomic: an event is pending */
    uint64_t pushes;
    int done;
    uint64_t flips; /* atomic */
    uint64_t violations; /* atomic: the disk is called from I/O threads too */
    struct flip_report count; /* of the ring's thread, except: */
    uint64_t reads, writes, flushes, discards; /* atomic */
};

static inline uint64_t flip_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* blk_flip_host.c */
int flip_host_open(struct flip *flip);
void flip_host_close(struct flip *flip);
void *flip_guarded(uint64_t bytes);
void flip_violation(struct flip *flip, const char *what, uint64_t value);

#endif
