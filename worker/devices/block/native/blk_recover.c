/* SPDX-License-Identifier: MIT */
/*
 * From a dead worker's journal to a ring that goes on. First the journal is checked and nothing is
 * changed; then the ring is made whole, in an order in which we may be killed too. The reasons are
 * at the head of blk_journal.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "blk_internal.h"

/* What the check learned; numbers of entries, in the order they are dealt with. */
struct journal_findings {
    uint32_t unanswered; /* RUNNING and HELD before T */
    uint32_t held[JOURNAL_SLOTS_MAX]; /* the same, by sequence */
    uint32_t waiting; /* ANSWERED, index from A on */
    uint16_t by_index[JOURNAL_SLOTS_MAX]; /* entry + 1 that answers A + i, 0: none */
    uint16_t behind[JOURNAL_SLOTS_MAX]; /* entry + 1 that answered A - 1 - i, 0: none */
};

static int broken(struct blk_dev *dev, const char *what)
{
    dev->journal.broken = what;
    return -EBADMSG;
}

static int sort_answered(struct blk_dev *dev, struct journal_findings *found, uint32_t number)
{
    uint64_t word = dev->journal.entries[number].word;
    int32_t distance = (int32_t)(word_index(word) - (uint32_t)dev->journal.header->answered);
    int32_t slots = (int32_t)dev->ring.slots;
    uint16_t *place;

    if (distance < -slots || distance >= slots)
        return broken(dev, "index of a response");
    if (word_status(word) > BLKIF_RSP_OKAY || word_status(word) < BLKIF_RSP_EOPNOTSUPP)
        return broken(dev, "status of a response");
    place = distance < 0 ? &found->behind[-1 - distance] : &found->by_index[distance];
    if (*place)
        return broken(dev, "two entries for one response");
    *place = (uint16_t)(number + 1);
    found->waiting += distance >= 0;
    return 0;
}

static int sort_entries(struct blk_dev *dev, struct journal_findings *found)
{
    const struct journal *journal = &dev->journal;
    uint64_t taken = journal->header->taken;
    uint32_t beginning = 0;
    int error;

    for (uint32_t i = 0; i < dev->ring.slots; i++) {
        const struct journal_entry *entry = &journal->entries[i];

        switch (word_state(entry->word)) {
        case ENTRY_FREE:
            break;
        case ENTRY_RUNNING:
            if (word_marks(entry->word) >= JOURNAL_POISON)
                return broken(dev, "marks of a request"); /* such a one is not begun */
            /* fall through */
        case ENTRY_HELD:
            if (entry->sequence == taken && word_state(entry->word) == ENTRY_RUNNING)
                beginning++;
            else if (entry->sequence >= taken)
                return broken(dev, "sequence of a request");
            else
                found->held[found->unanswered++] = i;
            break;
        case ENTRY_ANSWERED:
            error = sort_answered(dev, found, i);
            if (error)
                return error;
            break;
        default:
            return broken(dev, "state of an entry");
        }
    }
    return beginning > 1 ? broken(dev, "two requests for one index") : 0;
}

/* By sequence. Few are out of place, since entries are reused last in, first out. */
static int order_held(struct blk_dev *dev, struct journal_findings *found)
{
    const struct journal_entry *entries = dev->journal.entries;

    for (uint32_t i = 1; i < found->unanswered; i++) {
        uint32_t number = found->held[i], at = i;

        for (; at && entries[found->held[at - 1]].sequence > entries[number].sequence; at--)
            found->held[at] = found->held[at - 1];
        found->held[at] = number;
        if (at && entries[found->held[at - 1]].sequence == entries[number].sequence)
            return broken(dev, "two requests for one index");
    }
    return 0;
}

/* The answered ones lie around A without a gap, and A is what the ring says or was about to say. */
static int check_answered(struct blk_dev *dev, const struct journal_findings *found,
                          uint32_t untrusted_rsp)
{
    uint32_t behind = (uint32_t)dev->journal.header->answered - untrusted_rsp;

    for (uint32_t i = 0; i < found->waiting; i++) {
        if (!found->by_index[i])
            return broken(dev, "a gap in the responses");
    }
    for (uint32_t i = 0; i < behind; i++) {
        if (i >= dev->ring.slots || !found->behind[i]) {
            dev->loop.fault = BLK_FAULT_RESPONSES;
            return -EPROTO;
        }
    }
    return 0;
}

static int sort_all(struct blk_dev *dev, struct journal_findings *found)
{
    const struct journal_header *header = dev->journal.header;
    int error;

    if (header->taken < header->answered || header->taken - header->answered > dev->ring.slots)
        return broken(dev, "counts of requests and responses");
    error = sort_entries(dev, found);
    if (error)
        return error;
    if (found->unanswered + found->waiting != header->taken - header->answered)
        return broken(dev, "number of requests in flight");
    return order_held(dev, found);
}

/*
 * Whether the journal is one that a worker of ours can have left: 0, -EBADMSG if not, -EPROTO if
 * the ring does not fit it. Changes nothing in it; journal_recover goes by what was found.
 */
static int check(struct blk_dev *dev, uint32_t untrusted_rsp)
{
    int error;

    dev->ring.req_cons = (uint32_t)dev->journal.header->taken;
    dev->ring.rsp_prod = (uint32_t)dev->journal.header->answered;
    dev->journal.found = calloc(1, sizeof(*dev->journal.found));
    if (!dev->journal.found)
        return -ENOMEM;
    error = sort_all(dev, dev->journal.found);
    return error ? error : check_answered(dev, dev->journal.found, untrusted_rsp);
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
        return broken(dev, "length"); /* and not mapped: all of it would become memory */
    if (status.st_size >= (off_t)sizeof(struct journal_header)) {
        error = journal_map(journal, config->journal_fd, (size_t)status.st_size);
        if (error)
            return error;
    }
    untrusted = journal->header;
    if (!untrusted || untrusted->magic == 0) {
        journal_detach(dev);
        /* Nobody knows now which requests of a live ring have an answer. */
        if (untrusted_prod != untrusted_rsp)
            return -ENODATA;
        return journal_begin(dev, config, untrusted_rsp);
    }
    if (untrusted->magic != JOURNAL_MAGIC && untrusted->magic != JOURNAL_BEGINNING)
        return broken(dev, "magic");
    if (untrusted->magic == JOURNAL_BEGINNING ||
        memcmp(&untrusted->connection, &config->connection, sizeof(config->connection)) != 0) {
        journal_detach(dev);
        return journal_begin(dev, config, untrusted_rsp);
    }
    if (untrusted->publication == JOURNAL_IN_RING_ORDER)
        return 0;
    if (untrusted->publication != JOURNAL_OUT_OF_ORDER)
        return broken(dev, "order of publication");
    if (journal->bytes != sizeof(struct journal_header) + entries)
        return broken(dev, "length");
    return check(dev, untrusted_rsp);
}

/*
 * Open or begin the journal of a ring that was just opened, and set the ring's indices by it. After
 * an error, and where the connection goes in ring order, dev->journal.header is NULL. 0 or -errno
 * as blk_attach.
 */
int journal_attach(struct blk_dev *dev, const struct blk_ring_config *config)
{
    struct journal *journal = &dev->journal;
    uint32_t untrusted_prod = dev->ring.untrusted_req_prod, untrusted_rsp = dev->ring.rsp_prod;
    int error;

    memset(journal, 0, sizeof(*journal));
    if (config->resume)
        error = take_up(dev, config, untrusted_prod, untrusted_rsp);
    else
        error = journal_begin(dev, config, untrusted_rsp);
    if (error || journal->header->publication == JOURNAL_IN_RING_ORDER) {
        journal_detach(dev);
        return error;
    }
    dev->ring.req_cons = (uint32_t)journal->header->taken;
    dev->ring.rsp_prod = (uint32_t)journal->header->answered;
    journal_mark_crashes(dev);
    return 0;
}

/* The dead worker had these in hand. One store each: a death in between marks no entry twice. */
static void mark_running(struct blk_dev *dev)
{
    struct journal *journal = &dev->journal;
    uint32_t mark = journal->header->crashed ? JOURNAL_MARK_CRASHED : JOURNAL_MARK_KILLED;

    for (uint32_t i = 0; i < dev->ring.slots; i++) {
        struct journal_entry *entry = &journal->entries[i];
        uint32_t marks = word_marks(entry->word);

        if (word_state(entry->word) != ENTRY_RUNNING)
            continue;
        if (entry->sequence == journal->header->taken)
            journal_store(entry, journal_word(ENTRY_FREE, 0, 0, 0));
        else
            journal_store(entry, journal_word(ENTRY_HELD, marks + mark, 0, 0));
    }
    blk_inject_point();
    __atomic_store_n(&journal->header->crashed, 0, __ATOMIC_RELEASE);
}

/* A request of the journal, checked like one from the ring. */
static struct request *parse(struct blk_dev *dev, uint32_t number)
{
    struct request *request = &dev->requests[number];

    request->status = request_parse(dev, dev->journal.entries[number].request, request);
    return request;
}

/*
 * Make the ring whole by a journal that was checked: rsp_prod is set right, what has an outcome is
 * answered, the rest is held for journal_resume_next. The ring and the requests are attached.
 */
void journal_recover(struct blk_dev *dev)
{
    struct journal *journal = &dev->journal;
    const struct journal_findings *found = journal->found;

    mark_running(dev);
    /* Before the entries behind it are freed: without them nobody knows what rsp_prod must be. */
    ring_publish_index(dev);
    for (uint32_t i = 0; i < dev->ring.slots; i++) {
        if (found->behind[i])
            journal_store(&journal->entries[found->behind[i] - 1],
                          journal_word(ENTRY_FREE, 0, 0, 0));
    }
    journal->free_count = 0;
    for (uint32_t i = 0; i < dev->ring.slots; i++) {
        if (word_state(journal->entries[i].word) == ENTRY_FREE)
            journal->free[journal->free_count++] = (uint16_t)i;
    }
    journal->held_next = 0;
    journal->held_count = found->unanswered;
    for (uint32_t i = 0; i < found->unanswered; i++) {
        journal->held[i] = (uint16_t)found->held[i];
        journal->serial |= word_marks(journal->entries[found->held[i]].word) >= JOURNAL_SUSPECT;
    }
    dev->count.reissued += found->unanswered;
    dev->count.reanswered += found->waiting;
    for (uint32_t i = 0; i < found->waiting; i++) {
        struct request *request = parse(dev, found->by_index[i] - 1u);

        request->status = word_status(journal->entries[found->by_index[i] - 1].word);
        request_done(dev, request);
    }
    ring_publish(dev);
    free(journal->found);
    journal->found = NULL;
}

/* The next request that a predecessor left, in hand now; its status says whether it may run. */
struct request *journal_resume_next(struct blk_dev *dev)
{
    struct journal *journal = &dev->journal;
    uint32_t number = journal->held[journal->held_next++];
    struct journal_entry *entry = &journal->entries[number];
    uint32_t marks = word_marks(entry->word);
    struct request *request = parse(dev, number);

    if (marks >= JOURNAL_POISON) {
        request->status = BLKIF_RSP_ERROR;
        dev->count.poisoned++;
        dev->poison = *request;
        return request;
    }
    journal_store(entry, journal_word(ENTRY_RUNNING, marks, 0, 0));
    return request;
}
