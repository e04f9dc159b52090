/* SPDX-License-Identifier: MIT */
/*
 * Everything around one block backend, for the fuzz targets: a guest with memory, grants and a
 * ring, a disk that may fail in every way a disk can, and the promises, which are checked whenever
 * the backend calls out and after it returns:
 *
 * - the disk is touched within its bounds only, and never written if it is read-only;
 * - the backend touches no memory except its buffers and pages that are mapped at that moment;
 * - each request that was taken gets one answer, with its id and operation and the status that
 *   the interface allows; nothing but these answers and two indices is ever written into the ring;
 * - a page that was never granted for writing does not change;
 * - after the detach nothing is mapped and nothing is left without an answer.
 *
 * The backend is the real one except for its threads: blk_inject.c keeps their jobs in a list, so
 * one input is always the same case, and can stop it before any store.
 *
 *   world.c             opening, attaching, dying, ending
 *   world_deeds.c       what the guest does
 *   world_check.c       the promises about the ring
 *   world_hypervisor.c  channels and grants as the backend calls them
 *   world_disk.c        the disk as the backend calls it
 */
#ifndef XENBACKD_FUZZ_WORLD_H
#define XENBACKD_FUZZ_WORLD_H

#include "blk_internal.h"
#include "blk_inject.h"

#include "input.h"
#include "oracle.h"

#define WORLD_PAGES 64u
#define WORLD_REFS 64u /* references above are not granted */
#define WORLD_SECTORS 256u
#define WORLD_PORT 7u
#define WORLD_IDS 256u
#define WORLD_MAPPINGS 512u
#define WORLD_VERDICTS 8u
#define UNANSWERED 99

enum grant_kind { GRANT_WRITABLE = 0, GRANT_READ_ONLY, GRANT_NONE, GRANT_COPY_ONLY };

struct grant {
    uint8_t page;
    uint8_t kind;
};

struct mapping {
    uint8_t *address;
    uint32_t count;
};

/* An answer that is due. */
struct expected {
    uint64_t id;
    uint8_t operation;
    int16_t status; /* OKAY: any */
};

/* A deed of the guest's that waits for the backend to call out. */
struct reflex {
    uint8_t calls; /* until it is due; 0: none */
    uint8_t deed;
};

struct world {
    struct input *input;
    struct blk_config config;
    struct hv_ops hv;
    struct blk_disk disk_ops;
    struct blk_dev *dev;
    bool attached, stopped; /* stopped: the guest broke the ring, nothing is served any more */

    uint8_t *ring, *shadow; /* shadow: what the ring must look like */
    const struct blkif_layout *layout;
    uint32_t order, slots, ring_bytes;
    bool layout32, persistent;
    uint32_t prod, next_id;
    bool tampered; /* indices were written that no frontend writes */
    struct grant grant[WORLD_REFS];
    uint64_t ever_writable; /* pages, as bits */
    struct mapping mapping[WORLD_MAPPINGS];
    uint32_t mappings;
    int event; /* readable while there may be pending ports */
    uint32_t pending[4], pending_count;
    struct reflex reflex;

    uint8_t disk[WORLD_SECTORS * BLKIF_SECTOR];
    uint8_t verdict[WORLD_VERDICTS]; /* how calls end, in turn */
    uint32_t calls;
    bool interrupted;

    uint32_t seen_rsp, seen_cons;
    struct expected next[JOURNAL_SLOTS_MAX];
    struct expected due[2 * JOURNAL_SLOTS_MAX];
    uint32_t due_count;
    uint32_t anonymous; /* answers of a forged journal that nobody asked for */
    int16_t answer[WORLD_IDS]; /* status by id, UNANSWERED */

    bool journaled, forged;
    bool poisoned; /* a request was given up by a worker that is dead */
    int journal;
    bool ignore; /* between a death and the next attach the promises rest */
};

/* world.c */
void world_open(struct world *world, struct input *input);
void world_new_ring(struct world *world, uint32_t start);
int world_attach(struct world *world, bool resume);
int world_run(struct world *world);
void world_kill(struct world *world, bool crashed);
void world_finish_jobs(struct world *world);
void world_detach(struct world *world);
void world_end(struct world *world);

/* world_deeds.c */
void world_put(struct world *world, uint8_t operation, uint8_t segments);
void world_put_raw(struct world *world);
void world_push(struct world *world);
void world_deed(struct world *world, uint8_t deed, bool called);

/* world_check.c */
void check_begin(struct world *world);
void check_ring(struct world *world);
void check_nothing_due(struct world *world);

/* world_hypervisor.c */
void hypervisor_fill(struct world *world);
void called(struct world *world);
uint8_t verdict(struct world *world);
uint8_t *guest_page(uint32_t number);
void guest_reset(void);
void guest_check_protected(const struct world *world);

/* world_disk.c */
void disk_fill(struct world *world);

#endif
