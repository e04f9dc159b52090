/* SPDX-License-Identifier: MIT */
/*
 * The frontend's own view: a blkif ring of which we are the producer, its shadows and data pages.
 *
 * Every slot of the ring has a shadow that says what was asked in it. Its request id carries the
 * shadow's index and a generation, so a response that comes twice or was never asked for is
 * recognised. A shadow outlives the call that made it: what a call that gave up waiting left
 * behind is released when its response comes at last.
 */
#ifndef XENBACKD_FRONT_H
#define XENBACKD_FRONT_H

#include <stdint.h>

#include "worker/devices/block/native/blkif.h"
#include "front_api.h"
#include "shared/native/hv_ops.h"

struct front_page {
    uint8_t *address;
    uint32_t ref;
    uint32_t frame;
};

struct front_shadow {
    uint64_t sector;
    uint64_t tag;       /* the asking call's: offset in a buffer, index of an I/O */
    uint32_t run;       /* which call asked; another one's response is only released */
    uint32_t generation;
    uint32_t sectors;
    uint8_t operation;
    uint8_t busy;
    uint8_t pages;
    uint32_t page[BLKIF_MAX_SEGMENTS];
};

struct front {
    struct front_params params;
    struct blkif_layout layout;
    uint32_t slots;
    uint32_t req_prod;  /* private: slots filled */
    uint32_t published; /* what the ring page says */
    uint32_t rsp_cons;
    uint32_t rsp_seen;  /* producer index as last read, never ahead of req_prod */
    uint32_t run;
    int stop;
    int stop_fd;
    struct front_page *pages;
    uint32_t page_count;
    /*
     * A bit for each free page, the lowest is taken first: few pages stay warm and mapped by the
     * backend, and a large I/O lies in neighbouring ones, as buffers of a page cache do.
     */
    uint64_t *free_pages;
    uint32_t first_free; /* no word before this one has a bit set */
    uint32_t free_page_count;
    struct front_shadow *shadows;
    uint32_t *free_shadows;
    uint32_t free_shadow_count;
    struct front_counters counters;
};

struct front_response {
    struct front_shadow *shadow; /* pages still attached: call front_release after use */
    int status;
};

uint64_t front_now(void);

/* Room for a request with so many pages? */
static inline int front_room(const struct front *front, uint32_t pages)
{
    return front->free_shadow_count > 0 && front->free_page_count >= pages &&
           front->req_prod - front->rsp_cons < front->slots;
}

void front_free_page(struct front *front, uint32_t page);
/* Take a shadow and its pages; the caller fills the pages, then calls front_put. */
struct front_shadow *front_take(struct front *front, uint32_t pages);
void front_put(struct front *front, struct front_shadow *shadow, int operation, uint64_t sector,
               uint32_t sectors);
/* A flush or a discard: no data, and the number of sectors in place of the segments. */
void front_put_command(struct front *front, struct front_shadow *shadow, int operation,
                       uint64_t sector, uint64_t count);
int front_push(struct front *front);
/* 1 and a response of this run, 0 none there, -EPROTO. Others' responses are released. */
int front_next(struct front *front, struct front_response *response);
void front_release(struct front *front, struct front_shadow *shadow);
/* 1 responses are there, 0 time is over, -EINTR stopped if stoppable, else -errno. */
int front_wait(struct front *front, uint64_t poll_ns, uint64_t timeout_ns, int stoppable);

struct front_table {
    uint64_t units;
    uint64_t session;
    uint32_t unit;      /* bytes: 512, 1024, 2048 or 4096 */
    uint32_t next;      /* next sequence number */
    uint32_t *sequence; /* last completed write of each unit, 0 unknown */
    uint8_t *busy;      /* 0 idle, 1..254 reads in flight, 255 a write in flight */
};

#define FRONT_BUSY_WRITE 255u

#endif
