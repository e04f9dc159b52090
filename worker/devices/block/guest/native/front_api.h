/* SPDX-License-Identifier: MIT */
/*
 * What Python sees of the frontend's data plane. cffi reads this file too: plain declarations and
 * numeric #defines only.
 *
 * Return values: 0 or a count on success, -errno on failure, unless said otherwise. A `struct
 * front` belongs to one thread at a time; only the counters of a running load may be read, and
 * `front_stop` called, by another.
 */
#ifndef XENBACKD_FRONT_API_H
#define XENBACKD_FRONT_API_H

#define FRONT_BUCKETS 1920

#define FRONT_READ 0
#define FRONT_WRITE 1
#define FRONT_RANDREAD 2
#define FRONT_RANDWRITE 3
#define FRONT_RANDRW 4

#define FRONT_END_DONE 0
#define FRONT_END_STOPPED 1
#define FRONT_END_STUCK 2
#define FRONT_END_PROTOCOL 3
#define FRONT_END_HOST 4

#define FRONT_BAD_NONE 0
#define FRONT_BAD_FOREIGN 1
#define FRONT_BAD_MISPLACED 2
#define FRONT_BAD_STALE 3
#define FRONT_BAD_TORN 4

struct front;
struct front_table;
struct hv_ops;

struct front_params {
    uint8_t *ring;               /* 2^order pages, contiguous here, zeroed */
    uint32_t order;
    uint32_t bits;               /* 64: x86_64 layout, 32: x86_32 */
    uint8_t *grant_entries;      /* the domain's grant table, version 1 */
    uint32_t grant_count;
    uint16_t backend_domid;
    uint16_t handle;             /* goes into every request */
    uint32_t port;
    const struct hv_ops *ops;
    int persistent;              /* data pages stay granted; else granted per request */
    uint32_t first_index;        /* where all indices start: 0, or close to their wrap-around */
};

/* Counters over the life of a ring. */
struct front_counters {
    uint64_t requests;
    uint64_t responses;
    uint64_t notifies;
    uint64_t events;
    uint64_t bad_responses;      /* unknown or repeated id, index out of bounds */
    uint64_t grants_in_use;      /* answered, but the backend still had the page */
};

struct front_config {
    uint32_t rw;                 /* FRONT_READ ... */
    uint32_t read_percent;       /* of FRONT_RANDRW */
    uint32_t block_size;         /* bytes, a multiple of 512 */
    uint32_t depth;
    uint64_t offset;             /* of the region, bytes, a multiple of 512 */
    uint64_t size;               /* of the region, bytes */
    uint64_t runtime_ns;         /* 0: no limit */
    uint64_t total_bytes;        /* 0: no limit; both 0: the region once */
    uint64_t poll_ns;            /* watched before sleeping */
    uint64_t stall_ns;           /* no answer for so long is "stuck" */
    uint64_t tick_ns;            /* 0: all the time; else at most depth I/Os begin per tick */
    uint64_t seed;
    struct front_table *table;   /* NULL: no verification */
    int readback;                /* verify what is known once more at the end */
    int record_fd;               /* gets a struct front_record per I/O of the main phase; -1 */
};

/* CLOCK_MONOTONIC, which all processes of a machine share. */
struct front_record {
    uint64_t start_ns;
    uint64_t end_ns;
};

struct front_mismatch {
    uint32_t kind;               /* FRONT_BAD_... */
    uint32_t bad_offset;         /* first wrong byte within the unit */
    uint64_t sector;
    uint64_t expected_sequence;
    uint64_t found_magic, found_session, found_sector, found_sequence;
};

struct front_result {
    uint32_t end;                /* FRONT_END_... */
    int error;                   /* errno of FRONT_END_HOST */
    uint64_t elapsed_ns;
    uint64_t cpu_ns;
    uint64_t reads, writes;      /* completed I/Os of the main phase */
    uint64_t read_bytes, write_bytes;
    uint64_t errors;             /* I/Os the backend failed */
    int64_t first_error_status;
    uint64_t first_error_sector;
    uint64_t verified, unverified; /* units read whose content was known, was not */
    uint64_t mismatches;
    uint64_t notifies, events, in_flight;
    struct front_mismatch mismatch; /* the first one */
    uint64_t read_latency[FRONT_BUCKETS];
    uint64_t write_latency[FRONT_BUCKETS];
};

struct front *front_open(const struct front_params *params);
void front_close(struct front *front);
/* Add data pages; addresses are in this process. Persistent ones are granted by the caller. */
int front_add_pages(struct front *front, uint8_t **addresses, const uint32_t *refs,
                    const uint32_t *frames, uint32_t count);
uint32_t front_pages(struct front *front);
uint32_t front_slots(struct front *front);
uint32_t front_in_flight(struct front *front);
void front_counters(struct front *front, struct front_counters *out);
/* Ask a running load or transfer to end early; holds until front_resume. */
void front_stop(struct front *front);
void front_resume(struct front *front);

/* Move count sectors between the disk and buffer; -EIO and *status when the backend refuses. */
int front_transfer(struct front *front, int write, uint64_t sector, uint64_t count,
                   uint8_t *buffer, uint64_t poll_ns, uint64_t stall_ns, int *status);
/* One request without data: flush (sector and count 0) or discard. */
int front_command(struct front *front, int operation, uint64_t sector, uint64_t count,
                  uint64_t stall_ns, int *status);
int front_run(struct front *front, const struct front_config *config, struct front_result *result);

/* Hostile guests: any bytes in the next slot, any value in an index, no bookkeeping. */
int front_raw_submit(struct front *front, const uint8_t *slot, uint32_t length, int publish);
int front_raw_response(struct front *front, uint8_t *slot, uint32_t length);
int front_raw_wait(struct front *front, uint64_t timeout_ns);
uint32_t front_raw_index(struct front *front, uint32_t offset);
void front_raw_poke(struct front *front, uint32_t offset, uint32_t value);
int front_raw_notify(struct front *front);

struct front_table *front_table_new(uint64_t bytes, uint32_t unit, uint64_t session);
void front_table_free(struct front_table *table);
void front_table_forget(struct front_table *table, uint64_t offset, uint64_t length);
uint64_t front_table_known(struct front_table *table);
void front_pattern(uint8_t *block, uint32_t unit, uint64_t session, uint64_t sector,
                   uint64_t sequence);
int front_pattern_check(const uint8_t *block, uint32_t unit, uint64_t session, uint64_t sector,
                        uint64_t sequence, struct front_mismatch *out);
uint32_t front_bucket(uint64_t nanoseconds);

/* A RAM disk in a thread behind a ring: measures the frontend alone, injects faults. */
struct loopback;
struct loopback_params {
    uint8_t *ring;
    uint32_t order;
    uint32_t bits;
    uint8_t *memory;             /* the guest's, to find granted pages by frame */
    uint64_t memory_pages;
    uint8_t *grant_entries;
    uint32_t grant_count;
    uint64_t sectors;
    uint64_t poll_ns;
    uint32_t lose_write;         /* n: acknowledge every n-th write without doing it */
    uint32_t misplace_read;      /* n: every n-th read returns its neighbour */
    uint32_t tear_write;         /* n: every n-th write stores only the first half */
    uint32_t fail;               /* n: every n-th request is answered with an error */
    uint32_t swallow;            /* n: requests after the n-th are never answered */
    uint32_t keep;               /* n: the n-th request's page stays pinned (GTF_reading) */
    uint32_t repeat;             /* n: the n-th response is sent twice */
};
struct loopback *loopback_start(const struct loopback_params *params);
void loopback_stop(struct loopback *loopback);
uint8_t *loopback_disk(struct loopback *loopback);
const struct hv_ops *loopback_ops(struct loopback *loopback);

#endif
