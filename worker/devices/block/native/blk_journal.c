/* SPDX-License-Identifier: MIT */
/*
 * The in-flight journal: a file on tmpfs, mapped shared, that outlives the worker.
 *
 * A response may overwrite the slot of an older request that has no answer yet, so once answers go
 * out of order the ring alone does not say what is in flight. The journal does. Promise: a worker
 * may be killed between any two instructions, any number of times, and its successor answers every
 * request that the guest put into the ring exactly once, never runs a request again whose answer
 * was published, and reads no slot as a request that holds a response.
 *
 * What is kept: T (`taken`) and A (`answered`) count requests taken and responses published since
 * the indices were 0; an entry per request in flight, whose state, marks, status and response
 * index are one word, stored at once. Only the ring thread writes here.
 *
 * Order of stores. All of them are release stores, so each becomes visible, to a successor too,
 * only after all that stand before it; a killed process loses what it had not stored, nothing
 * else, and memory shared with a file needs no msync to be read by the next process.
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
 * - RUNNING, HELD: no answer. Run again. A write or discard that was done already is done again
 *   with the same data, before the guest was told that it may write there anew; a read fills the
 *   same pages, which are still the request's; a flush covers all that was answered before, for
 *   what a dead process wrote is in the kernel as ever.
 * - ANSWERED, index not before A (killed between 4 and 6): the outcome stands, also that of a read,
 *   whose data went into the guest's pages before step 4. The response is written again at its own
 *   index: those indices are A, A + 1, ... without a gap, so in their order and before anything
 *   else, or two entries would claim one slot if we are killed once more.
 * - ANSWERED, index before A (killed between 6 and the end of 8): all responses up to A are in
 *   their slots. rsp_prod := A first, then FREE. Not to be written again: the guest may have seen
 *   rsp_prod and use the slots for new requests.
 * - Slots from T on were never taken and never overwritten: A <= T. They are read as ever.
 *
 * rsp_prod in the ring is the guest's to write and so never the truth. It must be A, or, killed
 * between 6 and 7, less by as many indices as ANSWERED entries stand behind A without a gap. Any
 * other value is a fault of the guest's, or another ring under the same references.
 *
 * The file is as untrusted to the successor as a ring: the worker that wrote it may have been taken
 * over. Everything is checked before anything is used (journal_check), and each request goes
 * through request_parse again. A damaged file is refused; that is never guessed around, for
 * guessing wrong writes old data over new. It belongs to a connection (references, port, layout):
 * with another it is stale and begun anew, and so it is for a frontend that connects.
 *
 * Poison: a request that is in hand at each death shall not take the device down for ever. Each
 * entry in hand gets marks for the death it saw, in one store with its change to HELD, so that a
 * death during recovery counts nobody twice. After a crash all of them are suspects and run one at
 * a time, so that at the next crash only the guilty one is in hand; it is answered with an error.
 * A crash writes down that it was one (handler below). SIGKILL cannot, weighs half, and so four of
 * them are needed: operators and tests kill too, and that is not the fault of a request.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blk_internal.h"

static const int CRASHES[] = CRASH_SIGNALS;
#define CRASH_COUNT (sizeof(CRASHES) / sizeof(CRASHES[0]))

static struct sigaction before_us[CRASH_COUNT];
static bool watching;
/* Of the attached journal; the handler has no other way to it. */
static struct journal_header *volatile crash_header;

static int map_file(struct journal *journal, int fd, size_t bytes)
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
 * An empty journal of this connection, beginning at the ring's published responses. In the file may
 * stand what belongs to another connection, of any length. Who is killed in here leaves either that
 * or JOURNAL_BEGINNING, never an empty file: from that no successor could tell that this ring,
 * which may be live and hold requests, is untouched.
 */
static int begin(struct blk_dev *dev, const struct blk_ring_config *config, uint32_t start)
{
    struct journal *journal = &dev->journal;
    size_t bytes = sizeof(struct journal_header);
    int error;

    if (config->journal)
        bytes += dev->ring.slots * sizeof(struct journal_entry);
    blk_inject_point();
    /* At least so long, and really there: a hole in a full tmpfs would be a SIGBUS later. */
    error = posix_fallocate(config->journal_fd, 0, (off_t)bytes);
    if (error)
        return -error;
    error = map_file(journal, config->journal_fd, bytes);
    if (error)
        return error;
    blk_inject_point();
    store_release64(&journal->header->magic, JOURNAL_BEGINNING);
    full_barrier(); /* nothing of what follows before it */
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

int journal_broken(struct blk_dev *dev, const char *what)
{
    dev->journal.broken = what;
    return -EBADMSG;
}

/* The journal a predecessor left, if it is of this connection. */
static int take_up(struct blk_dev *dev, const struct blk_ring_config *config,
                   uint32_t untrusted_prod, uint32_t untrusted_rsp)
{
    struct journal *journal = &dev->journal;
    const struct journal_header *untrusted;
    struct stat status;
    size_t entries = dev->ring.slots * sizeof(struct journal_entry);
    size_t longest =
        sizeof(struct journal_header) + JOURNAL_SLOTS_MAX * sizeof(struct journal_entry);
    int error;

    if (fstat(config->journal_fd, &status) < 0)
        return -errno;
    if (status.st_size > (off_t)longest)
        return journal_broken(dev, "length"); /* and not mapped: all of it would become memory */
    if (status.st_size >= (off_t)sizeof(struct journal_header)) {
        error = map_file(journal, config->journal_fd, (size_t)status.st_size);
        if (error)
            return error;
    }
    untrusted = journal->header;
    if (!untrusted || untrusted->magic == 0) {
        journal_detach(dev);
        /* Which requests of a live ring have an answer nobody knows now. */
        return untrusted_prod == untrusted_rsp ? begin(dev, config, untrusted_rsp) : -ENODATA;
    }
    if (untrusted->magic != JOURNAL_MAGIC && untrusted->magic != JOURNAL_BEGINNING)
        return journal_broken(dev, "magic");
    if (untrusted->magic == JOURNAL_BEGINNING ||
        memcmp(&untrusted->connection, &config->connection, sizeof(config->connection)) != 0) {
        journal_detach(dev);
        return begin(dev, config, untrusted_rsp);
    }
    if (untrusted->publication == JOURNAL_IN_RING_ORDER)
        return 0;
    if (untrusted->publication != JOURNAL_OUT_OF_ORDER)
        return journal_broken(dev, "order of publication");
    if (journal->bytes != sizeof(struct journal_header) + entries)
        return journal_broken(dev, "length");
    return journal_check(dev, untrusted_rsp);
}

/*
 * Open or begin the journal and set the ring's indices by it. After an error, and where the
 * connection goes in ring order, dev->journal.header is NULL. 0 or -errno as blk_attach.
 */
int journal_attach(struct blk_dev *dev, const struct blk_ring_config *config,
                   uint32_t untrusted_prod, uint32_t untrusted_rsp)
{
    struct journal *journal = &dev->journal;
    int error;

    memset(journal, 0, sizeof(*journal));
    if (config->resume)
        error = take_up(dev, config, untrusted_prod, untrusted_rsp);
    else
        error = begin(dev, config, untrusted_rsp);
    if (error || journal->header->publication == JOURNAL_IN_RING_ORDER) {
        journal_detach(dev);
        return error;
    }
    dev->ring.req_cons = (uint32_t)journal->header->taken;
    dev->ring.rsp_prod = (uint32_t)journal->header->answered;
    crash_header = journal->header;
    return 0;
}

void journal_detach(struct blk_dev *dev)
{
    struct journal *journal = &dev->journal;

    if (!journal->header)
        return;
    if (crash_header == journal->header)
        crash_header = NULL;
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

/* Steps 1 to 3. The request's own copy is the one in its entry. */
struct request *journal_take(struct blk_dev *dev, const uint8_t *untrusted_slot)
{
    struct journal *journal = &dev->journal;
    /* There is one: in flight are T - A, which is less than the ring has slots. */
    uint16_t number = journal->free[--journal->free_count];
    struct journal_entry *entry = &journal->entries[number];

    store_bytes(entry->request, untrusted_slot, dev->ring.layout->slot);
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

/* We end in an orderly way while the disk does not: that is no request's fault, so no mark. */
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

static void crash(int number)
{
    struct journal_header *header = crash_header;

    if (header)
        header->crashed = 1;
    for (size_t i = 0; i < CRASH_COUNT; i++) {
        if (CRASHES[i] == number)
            sigaction(number, &before_us[i], NULL);
    }
    /* Blocked while we are in here: it comes when we return, to whoever had it before. */
    raise(number);
}

void blk_watch_crashes(void)
{
    struct sigaction action = {.sa_handler = crash, .sa_flags = SA_ONSTACK};

    if (watching)
        return;
    watching = true;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < CRASH_COUNT; i++)
        sigaction(CRASHES[i], &action, &before_us[i]);
}
