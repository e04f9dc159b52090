/* SPDX-License-Identifier: MIT */
/*
 * The in-flight journal: a file on tmpfs, mapped shared, that outlives the worker.
 *
 * A response may overwrite the slot of an older request that has no answer yet. So once answers go
 * out of order, the ring alone does not say what is in flight; the journal does. Promise: a worker
 * may be killed between any two instructions, any number of times. Its successor answers every
 * request that the guest put into the ring exactly once, never runs a request again whose answer
 * was published, and never reads a slot as a request that holds a response.
 *
 * What is kept: T (`taken`) and A (`answered`) count requests taken and responses published since
 * the indices were 0. Each request in flight has an entry, whose state, marks, status and response
 * index are one word, stored at once. Only the ring thread writes here.
 *
 * Order of stores. All of them are release stores: each becomes visible, to a successor too, only
 * after all stores before it. A killed process loses what it had not stored and nothing else, and
 * memory shared with a file needs no msync to be read by the next process.
 *
 *   take      1 copy of the slot, sequence = T     2 word = RUNNING     3 T = T + 1
 *   answer    4 word = ANSWERED, status, index     5 the response into its slot      (each of k)
 *   publish   6 A = A + k     7 rsp_prod in the ring = A     8 word = FREE           (each of k)
 *
 * Invariant I, after every single store:
 *   (number of RUNNING and HELD entries with sequence < T)
 *     + (number of ANSWERED entries whose index is not before A)  ==  T - A
 *   Steps 1, 2: such an entry has sequence T and does not count. 3: one more taken, one more
 *   counted. 4: the entry counts before and after, its index is A + j. 6: k indices fall behind A.
 *   8: they did not count any more.
 *
 * From I follows what a successor does (blk_recover.c):
 * - RUNNING with sequence T (killed between 2 and 3): nobody has worked on it and its slot is
 *   untouched, since answers only go to slots of requests before T. Dropped; the ring has it.
 * - RUNNING, HELD: no answer. Run again. A write or discard that was already done is done again
 *   with the same data, before the guest is told that it may write there again. A read fills the
 *   same pages, which are still the request's. A flush covers all that was answered before: what a
 *   dead process wrote is still in the kernel.
 * - ANSWERED, index not before A (killed between 4 and 6): the outcome stands, also that of a read,
 *   whose data went into the guest's pages before step 4. The response is written again at its own
 *   index. Those indices are A, A + 1, ... without a gap. They go in this order and before anything
 *   else, or two entries would claim one slot if we were killed once more.
 * - ANSWERED, index before A (killed between 6 and the end of 8): all responses up to A are in
 *   their slots. rsp_prod := A first, then FREE. They are not written again: the guest may have
 *   seen rsp_prod and may be using the slots for new requests.
 * - Slots from T on were never taken and never overwritten: A <= T. They are read as usual.
 *
 * The guest can write rsp_prod in the ring, so it is never the truth. It must be A or, killed
 * between 6 and 7, less by as many indices as there are ANSWERED entries behind A without a gap.
 * Any other value is a fault of the guest, or another ring under the same references.
 *
 * The successor trusts the file no more than a ring: the worker that wrote it may have been taken
 * over. Everything is checked before anything is used (`check` in blk_recover.c), and each request
 * goes through request_parse again. A damaged file is refused, never guessed at: a wrong guess
 * writes old data over new. The file belongs to a connection (references, port, layout). Another
 * connection makes it stale; then, and for a frontend that connects, a new journal is begun in it.
 *
 * Poison: a request that is in hand at each death must not take the device down forever. Each entry
 * in hand gets marks for the death it saw, in one store with its change to HELD, so that a death
 * during recovery counts against nobody twice. After a crash all of them are suspects and run one
 * at a time, so that at the next crash only the guilty one is in hand; it is answered with an
 * error. A crash notes that it was one (worker/plane/crash.h). SIGKILL cannot, so it weighs half,
 * and four of them are needed: operators and tests kill too, and no request is to blame for that.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "blk_internal.h"

int journal_map(struct journal *journal, int fd, size_t bytes)
{
    void *address =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);

    if (address == MAP_FAILED)
        return -errno;
    journal->header = address;
    journal->entries = (void *)((uint8_t *)address + sizeof(struct journal_header));
    journal->bytes = bytes;
    return 0;
}

/*
 * An empty journal of this connection, beginning at the ring's published responses. The file may
 * hold what belongs to another connection, of any length. A worker killed in here leaves either
 * that or JOURNAL_BEGINNING, never an empty file: from an empty one no successor could tell that
 * this ring, which may be live and hold requests, is untouched.
 */
int journal_begin(struct blk_dev *dev, const struct blk_ring_config *config, uint32_t start)
{
    struct journal *journal = &dev->journal;
    size_t bytes = sizeof(struct journal_header);
    int error;

    if (config->journal)
        bytes += dev->ring.slots * sizeof(struct journal_entry);
    blk_inject_point();
    /* At least this long, and really there: a hole in a full tmpfs would be a SIGBUS later. */
    error = posix_fallocate(config->journal_fd, 0, (off_t)bytes);
    if (error)
        return -error;
    error = journal_map(journal, config->journal_fd, bytes);
    if (error)
        return error;
    blk_inject_point();
    store_release64(&journal->header->magic, JOURNAL_BEGINNING);
    full_barrier(); /* nothing that follows may pass it */
    blk_inject_point();
    if (ftruncate(config->journal_fd, (off_t)bytes) < 0) {
        error = -errno;
        journal_detach(dev);
        return error;
    }
    memset((uint8_t *)journal->header + sizeof(journal->header->magic), 0,
           bytes - sizeof(journal->header->magic));
    journal->header->publication =
        config->journal ? JOURNAL_OUT_OF_ORDER : JOURNAL_IN_RING_ORDER;
    journal->header->connection = config->connection;
    journal->header->taken = journal->header->answered = start;
    blk_inject_point();
    store_release64(&journal->header->magic, JOURNAL_MAGIC);
    for (uint32_t i = 0; i < dev->ring.slots; i++)
        journal->free[journal->free_count++] = (uint16_t)(dev->ring.slots - 1 - i);
    return 0;
}

/* From now on a crash of this process is noted in the journal. */
void journal_mark_crashes(struct blk_dev *dev)
{
    plane_crash_mark(dev->config.crash, &dev->journal.header->crashed);
}

void journal_detach(struct blk_dev *dev)
{
    struct journal *journal = &dev->journal;

    if (!journal->header)
        return;
    plane_crash_forget(dev->config.crash, &journal->header->crashed);
    munmap(journal->header, journal->bytes);
    free(journal->found);
    journal->found = NULL;
    journal->header = NULL;
    journal->entries = NULL;
}

struct journal_entry *journal_entry_of(struct blk_dev *dev, const struct request *request)
{
    return &dev->journal.entries[request - dev->requests];
}

/* Its outcome is known and where the guest wants it; the answer goes with the next publication. */
void request_done(struct blk_dev *dev, struct request *request)
{
    struct journal *journal = &dev->journal;

    request->state = REQUEST_DONE;
    if (!journal->header)
        return;
    request->next = NULL;
    if (journal->done_tail)
        journal->done_tail->next = request;
    else
        journal->done_head = request;
    journal->done_tail = request;
}

/* Steps 1 to 3. The request's own copy is the one in its entry. */
struct request *journal_take(struct blk_dev *dev, const uint8_t *untrusted_slot)
{
    struct journal *journal = &dev->journal;
    /* There is one: in flight are T - A, which is less than the ring has slots. */
    uint16_t number = journal->free[--journal->free_count];
    struct journal_entry *entry = &journal->entries[number];

    store_bytes(entry->request, untrusted_slot, dev->layout->slot);
    entry->sequence = journal->header->taken;
    journal_store(entry, journal_word(ENTRY_RUNNING, 0, 0, 0));
    blk_inject_point();
    store_release64(&journal->header->taken, journal->header->taken + 1);
    return &dev->requests[number];
}

/* Step 4. */
void journal_answer(struct blk_dev *dev, struct request *request, uint32_t index)
{
    journal_store(journal_entry_of(dev, request),
               journal_word(ENTRY_ANSWERED, 0, request->status, index));
}

/* Step 6: everything up to the ring's rsp_prod. */
void journal_publish(struct blk_dev *dev)
{
    struct journal_header *header = dev->journal.header;

    blk_inject_point();
    store_release64(&header->answered,
                    header->answered + (uint32_t)(dev->ring.rsp_prod - (uint32_t)header->answered));
}

/* Step 8. */
void journal_release(struct blk_dev *dev, struct request *request)
{
    struct journal *journal = &dev->journal;

    journal_store(journal_entry_of(dev, request), journal_word(ENTRY_FREE, 0, 0, 0));
    journal->free[journal->free_count++] = (uint16_t)(request - dev->requests);
}

/* We end in an orderly way while the disk hangs: that is no request's fault, so no mark. */
void journal_put_down(struct blk_dev *dev)
{
    struct journal *journal = &dev->journal;

    for (uint32_t i = 0; journal->header && i < dev->ring.slots; i++) {
        uint64_t word = journal->entries[i].word;

        if (word_state(word) == ENTRY_RUNNING)
            journal_store(&journal->entries[i],
                       journal_word(ENTRY_HELD, word_marks(word), 0, 0));
    }
}
