/* SPDX-License-Identifier: MIT */
/*
 * What a test sees of the guest that changes its requests while they are parsed, and of the host
 * that watches the backend meanwhile. cffi reads this file too.
 */

/* The longest one round may take; only a backend that has stopped answering reaches it. */
#define FLIP_STUCK_SECONDS 60
/* Likewise for the answer to one request. */
#define FLIP_LOST_SECONDS 20
/* Grants 100 and up; the upper half of them is for reading only. */
#define FLIP_FIRST_REF 100
#define FLIP_PAGES 64
#define FLIP_PORT 7

struct flip;

struct flip_config {
    uint32_t slots;
    uint32_t slot, id, sector, segments; /* bytes, as in struct blkif_layout */
    uint64_t sectors;
    uint32_t read_only;
};

/* The backend under test: blk_run and blk_status of the module that has it. */
struct flip_engine {
    struct blk_dev *dev;
    int (*run)(struct blk_dev *dev, const int *wake_fds, uint32_t count, int timeout_ms);
    void (*status)(const struct blk_dev *dev, struct blk_status *out);
};

struct flip_report {
    uint64_t requests, flips;
    uint64_t reads, writes, flushes, discards, copies, maps;
    uint64_t mapped; /* pages now */
    uint64_t violations;
    char first[128]; /* what the first was */
};

/* NULL without memory. */
struct flip *flip_open(const struct flip_config *config);
void flip_close(struct flip *flip);
void *flip_memory(struct flip *flip);
const struct hv_ops *flip_ops(struct flip *flip);
const struct blk_disk *flip_disk(struct flip *flip);

/*
 * Begin to write from a thread of its own, until flip_stop: into requests and the indices that are
 * the backend's; with `producer` into req_prod and rsp_prod instead. 0 or -errno.
 */
int flip_start(struct flip *flip, int producer);
void flip_stop(struct flip *flip);
/*
 * Instead: put that many flushes one after another, with changing pauses between them, and send an
 * event only for those for which req_event asks. Ends with a write to the eventfd `done` when all
 * are answered or, as a violation, when no answer comes any more. 0 or -errno.
 */
int flip_ring(struct flip *flip, uint64_t pushes, int done);
/*
 * Rings full of requests, each answered and checked, until there were `requests` of them and as
 * many flips. 0, or -1 with the reason in the report.
 */
int flip_rounds(struct flip *flip, const struct flip_engine *engine, uint64_t requests);
/* Fill the ring with requests, all of them good as long as nobody changes them. */
void flip_fill(struct flip *flip);
void flip_report(struct flip *flip, struct flip_report *out);
