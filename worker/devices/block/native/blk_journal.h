/* SPDX-License-Identifier: MIT */
/*
 * The journal's form in its file, and what the parts of the backend ask of it. What it promises,
 * and why, is at the head of blk_journal.c.
 */
#ifndef XENBACKD_BLK_JOURNAL_H
#define XENBACKD_BLK_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/native/barrier.h"
#include "worker/devices/block/native/blkif.h"
#include "blk_api.h"
#include "blk_point.h"

struct blk_dev;
struct request;
struct journal_findings;

/* "XBLKJNL1"; another form gets another, and takes up what a drained worker left of this one. */
#define JOURNAL_MAGIC 0x314c4e4a4b4c4258ull
/* "XBLKJNL0": it is being begun, and nobody has taken anything from the ring that it will be of. */
#define JOURNAL_BEGINNING 0x304c4e4a4b4c4258ull
#define JOURNAL_SLOTS_MAX 512u

/*
 * What one death adds to the marks of a request that was in hand. From JOURNAL_SUSPECT on it is
 * issued alone, from JOURNAL_POISON on it is answered with an error.
 */
#define JOURNAL_MARK_KILLED 1u /* SIGKILL, or an exit: probably not the request's doing */
#define JOURNAL_MARK_CRASHED 2u
#define JOURNAL_SUSPECT 2u
#define JOURNAL_POISON 4u

enum journal_order { JOURNAL_IN_RING_ORDER = 1, JOURNAL_OUT_OF_ORDER = 2 };

enum entry_state {
    ENTRY_FREE = 0,
    ENTRY_RUNNING,  /* taken and in hand: a suspect if we die now */
    ENTRY_HELD,     /* left by a predecessor, not begun */
    ENTRY_ANSWERED, /* its outcome is known, its response on the way */
};

struct journal_header {
    uint64_t magic; /* 0: nothing valid in here yet; JOURNAL_BEGINNING, and, last, JOURNAL_MAGIC */
    uint32_t publication; /* enum journal_order, for the life of the connection */
    uint32_t crashed; /* the worker died of itself (worker/plane/crash.h) */
    struct blk_connection connection;
    /* In a cache line of their own; both only grow. Modulo 2^32 they are the ring's indices. */
    uint64_t taken __attribute__((aligned(64))); /* requests: req_cons */
    uint64_t answered; /* responses: rsp_prod, also of what is just being published */
} __attribute__((aligned(64)));

struct journal_entry {
    uint64_t word; /* one store: see journal_word */
    uint64_t sequence; /* value of header.taken when it was taken */
    uint8_t request[112]; /* as it was copied out of the ring */
} __attribute__((aligned(64)));

_Static_assert(sizeof(struct journal_header) == 192, "a header of three cache lines");
_Static_assert(sizeof(struct journal_entry) == 128, "an entry of two cache lines");

/* State, marks, the answer's status and its ring index, as one value. */
static inline uint64_t journal_word(enum entry_state state, uint32_t marks, int16_t status,
                                    uint32_t index)
{
    return (uint64_t)state | (uint64_t)(marks & 0xff) << 8 | (uint64_t)(uint16_t)status << 16 |
           (uint64_t)index << 32;
}

static inline uint32_t word_state(uint64_t word)
{
    return word & 0xff;
}

static inline uint32_t word_marks(uint64_t word)
{
    return word >> 8 & 0xff;
}

static inline int16_t word_status(uint64_t word)
{
    return (int16_t)(word >> 16);
}

static inline uint32_t word_index(uint64_t word)
{
    return (uint32_t)(word >> 32);
}

static inline void journal_store(struct journal_entry *entry, uint64_t word)
{
    blk_inject_point();
    store_release64(&entry->word, word);
}

struct journal {
    struct journal_header *header; /* NULL: there is none, responses go in ring order */
    struct journal_entry *entries;
    size_t bytes;
    uint32_t free_count;
    uint32_t held_next, held_count; /* of `held`: what is not begun yet, oldest first */
    bool serial; /* a suspect is among them: one at a time */
    uint16_t free[JOURNAL_SLOTS_MAX];
    uint16_t held[JOURNAL_SLOTS_MAX];
    struct request *done_head, *done_tail; /* to be published, in this order */
    const char *broken; /* what was found wrong in the file */
    struct journal_findings *found; /* between journal_attach and journal_recover */
};

static inline uint32_t journal_held(const struct journal *journal)
{
    return journal->held_count - journal->held_next;
}

/* blk_journal.c */
int journal_map(struct journal *journal, int fd, size_t bytes);
int journal_begin(struct blk_dev *dev, const struct blk_ring_config *config, uint32_t start);
void journal_mark_crashes(struct blk_dev *dev);
void journal_detach(struct blk_dev *dev);
void request_done(struct blk_dev *dev, struct request *request);
struct request *journal_take(struct blk_dev *dev, const uint8_t *untrusted_slot);
void journal_answer(struct blk_dev *dev, struct request *request, uint32_t index);
void journal_publish(struct blk_dev *dev);
void journal_release(struct blk_dev *dev, struct request *request);
void journal_put_down(struct blk_dev *dev);
struct journal_entry *journal_entry_of(struct blk_dev *dev, const struct request *request);

/* blk_recover.c */
int journal_attach(struct blk_dev *dev, const struct blk_ring_config *config);
void journal_recover(struct blk_dev *dev);
struct request *journal_resume_next(struct blk_dev *dev);

#endif
