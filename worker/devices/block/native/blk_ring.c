/* SPDX-License-Identifier: MIT */
/*
 * Requests out of the shared ring, responses into it (its indices: worker/plane/ring.h). The guest
 * can write every byte of it at any time, so a request is copied once, and only the copy is used.
 */
#include <string.h>

#include "blk_internal.h"

static uint8_t *slot_at(const struct blk_dev *dev, uint32_t index)
{
    const struct plane_ring *ring = &dev->ring;

    return ring->shared + RING_HEADER + (index & (ring->slots - 1)) * dev->layout->slot;
}

/* Requests that may be taken, or -1 with the fault noted. */
int32_t ring_available(struct blk_dev *dev)
{
    int32_t available;

    if (dev->loop.fault)
        return -1; /* for the index that was found, whatever is there by now */
    available = plane_ring_available(&dev->ring);
    if (available < 0)
        dev->loop.fault = BLK_FAULT_OVERFLOW;
    return available;
}

/* Copy the next request out of shared memory, the one and only time it is read, and check it. */
struct request *ring_take(struct blk_dev *dev)
{
    struct plane_ring *ring = &dev->ring;
    const uint8_t *untrusted_slot = slot_at(dev, ring->req_cons);
    uint8_t untrusted_copy[112];
    const uint8_t *untrusted = untrusted_copy;
    struct request *request;

    if (dev->journal.header) {
        request = journal_take(dev, untrusted_slot);
        untrusted = journal_entry_of(dev, request)->request;
    } else {
        request = request_at(dev, ring->req_cons);
        memcpy(untrusted_copy, untrusted_slot, dev->layout->slot);
    }
    /* The compiler may not go back to the original for any later use of the copy. */
    __asm__ volatile("" ::: "memory");
    ring->req_cons++;
    request->status = request_parse(dev, untrusted, request);
    return request;
}

static void write_response(struct blk_dev *dev, const struct request *request)
{
    uint8_t response[16] = {0}; /* padding included: nothing of ours leaks to the guest */

    memcpy(response, &request->id, 8);
    response[8] = request->operation;
    memcpy(response + 10, &request->status, 2);
    store_bytes(slot_at(dev, dev->ring.rsp_prod), response, dev->layout->response);
}

static void account(struct blk_counters *count, const struct request *request)
{
    if (request->status != BLKIF_RSP_OKAY)
        return;
    switch (request->operation) {
    case BLKIF_OP_READ:
        count->rd_req++;
        count->rd_sect += request->length / BLKIF_SECTOR;
        break;
    case BLKIF_OP_WRITE:
        count->wr_req++;
        count->wr_sect += request->length / BLKIF_SECTOR;
        break;
    case BLKIF_OP_FLUSH_DISKCACHE:
        count->f_req++;
        break;
    case BLKIF_OP_DISCARD:
        count->ds_req++;
        count->ds_sect += request->length / BLKIF_SECTOR;
        break;
    }
}

/* Everything up to our rsp_prod is the guest's to read. */
void ring_publish_index(struct blk_dev *dev)
{
    blk_inject_point();
    plane_ring_publish(&dev->ring);
}

static void answer(struct blk_dev *dev, struct request *request)
{
    write_response(dev, request);
    account(&dev->count, request);
    grants_release(dev, request);
    request->state = REQUEST_FREE;
    dev->ring.rsp_prod++;
}

/* Up to the first that has not ended. */
static void publish_in_order(struct blk_dev *dev)
{
    struct plane_ring *ring = &dev->ring;
    uint32_t before = ring->rsp_prod;

    while (ring->rsp_prod != ring->req_cons) {
        struct request *request = request_at(dev, ring->rsp_prod);

        if (request->state != REQUEST_DONE)
            break;
        answer(dev, request);
    }
    if (ring->rsp_prod != before)
        ring_publish_index(dev);
}

/* All that ended; the order of the stores is that of blk_journal.c. */
static void publish_as_they_ended(struct blk_dev *dev)
{
    struct journal *journal = &dev->journal;
    struct request *request;

    if (!journal->done_head)
        return;
    for (request = journal->done_head; request; request = request->next) {
        journal_answer(dev, request, dev->ring.rsp_prod);
        answer(dev, request);
    }
    journal_publish(dev);
    ring_publish_index(dev);
    for (request = journal->done_head; request; request = request->next)
        journal_release(dev, request);
    journal->done_head = journal->done_tail = NULL;
}

/* Publish the answers of requests that ended. */
void ring_publish(struct blk_dev *dev)
{
    if (dev->journal.header)
        publish_as_they_ended(dev);
    else
        publish_in_order(dev);
}

/* Send an event if the guest asked for one with any response published since the last check. */
void ring_notify_if_asked(struct blk_dev *dev)
{
    if (plane_ring_event_asked(&dev->ring))
        plane_events_notify(&dev->loop.events);
}
