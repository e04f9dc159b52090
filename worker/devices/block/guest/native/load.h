/* SPDX-License-Identifier: MIT */
/* One run of the load generator: what load.c (the loop) and schedule.c (which block) share. */
#ifndef XENBACKD_LOAD_H
#define XENBACKD_LOAD_H

#include "front.h"

struct io {
    uint64_t sector;
    uint64_t start;
    uint32_t asked;   /* sectors put into the ring */
    uint32_t pending; /* requests without an answer */
    uint32_t sequence;
    int status;
    uint8_t write;
};

#define LOAD_RECORDS 512u

struct load {
    struct front *front;
    const struct front_config *config;
    struct front_result *result;
    struct io *ios;
    uint32_t *free_ios;
    uint32_t free_count;
    struct io *partial;
    uint32_t sectors;      /* per I/O */
    uint32_t units;        /* per I/O, verify mode */
    uint64_t blocks;       /* in the region */
    uint64_t next_block;   /* sequential */
    uint64_t bytes_left;
    uint64_t random;
    uint64_t now;
    uint64_t progress;     /* when an answer came last */
    uint64_t began;
    int readback;          /* phase: 0 main, 1 reading back */
    int ending;            /* nothing new is started */
    uint64_t next_tick;
    uint32_t allowed;      /* I/Os that may still begin in this tick */
    int record_error;      /* -errno of the record file */
    uint32_t record_count;
    struct front_record records[LOAD_RECORDS];
};

/* 1 and the next block, 0 none at present, -1 none left. */
int load_pick(struct load *load, uint64_t *sector, int *write);

/* Verify mode: claim the units of an I/O, fill a write's pages, check a read's, release. */
void load_mark(struct load *load, struct io *io);
void load_fill(struct load *load, const struct io *io, const struct front_shadow *shadow);
void load_check(struct load *load, const struct front_shadow *shadow);
void load_unmark(struct load *load, const struct io *io);

/* Keep when an I/O began and ended; write out what is kept. No effect without a file. */
void load_record(struct load *load, const struct io *io);
void load_write_records(struct load *load);

#endif
