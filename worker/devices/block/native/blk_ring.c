/* SPDX-License-Identifier: MIT */
/*
 * The shared ring: indices, requests in, responses out (xen/include/public/io/ring.h).
 *
 * Indices run freely and wrap at 2^32; only differences mean something. The guest can write every
 * byte here at any time: req_prod and rsp_event are loaded once per use, a request is copied once,
 * and our own indices are never read back.
 */
#include <errno.h>
#include <string.h>

#include "blk_internal.h"

static volatile uint32_t *index_at(const struct ring *ring, uint32_t offset)
{
    return (volatile uint32_t *)(void *)(ring->shared + offset);
}

static uint8_t *slot_at(const struct ring *ring, uint32_t index)
{
    return ring->shared + RING_HEADER + (index & (ring->slots - 1)) * ring->layout->slot;
}

/*
 * Take the ring up: where the journal says, or, in a new ring and in one that goes in ring order,
 * at its published response index, which is the first request without an answer.
 */
int ring_attach(struct blk_dev *dev, const struct blk_ring_config *config)
{
    struct ring *ring = &dev->ring;
    uint32_t untrusted_prod, untrusted_rsp;
    int error;

    ring->shared = config->ring;
    ring->layout = config->connection.layout32 ? &BLKIF_32 : &BLKIF_64;
    ring->slots = blkif_ring_slots(ring->layout, config->connection.order);
    ring->port = config->port;
    untrusted_prod = load_acquire32(index_at(ring, RING_REQ_PROD));
    untrusted_rsp = load_acquire32(index_at(ring, RING_RSP_PROD));
    ring->untrusted_req_prod = untrusted_prod;
    ring->rsp_prod = ring->req_cons = untrusted_rsp;
    if (config->journal_fd >= 0) {
        error = journal_attach(dev, config, untrusted_prod, untrusted_rsp);
        if (error)
            return error;
    }
    ring->notified = ring->rsp_prod;
    return ring_available(dev) < 0 ? -EPROTO : 0;
}

/* Requests that may be taken, or -1 with the fault noted. */
int32_t ring_available(struct blk_dev *dev)
{
    struct ring *ring = &dev->ring;
    uint32_t untrusted_prod;

    if (dev->fault)
        return -1; /* for the index that was found, whatever stands there by now */
    untrusted_prod = load_acquire32(index_at(ring, RING_REQ_PROD));
    ring->untrusted_req_prod = untrusted_prod;
    /*
     * Against rsp_prod, not req_cons: a slot is the guest's again only when its answer is
     * published. This also finds a producer that went backwards.
     */
    if (untrusted_prod - ring->rsp_prod > ring->slots ||
        untrusted_prod - ring->rsp_prod < ring->req_cons - ring->rsp_prod) {
        dev->fault = BLK_FAULT_OVERFLOW;
        return -1;
    }
    return (int32_t)(untrusted_prod - ring->req_cons);
}

/* Copy the next request out of shared memory, the one and only time it is read, and check it. */
struct request *ring_take(struct blk_dev *dev)
{
    struct ring *ring = &dev->ring;
    const uint8_t *untrusted_slot = slot_at(ring, ring->req_cons);
    uint8_t untrusted_copy[112];
    const uint8_t *untrusted = untrusted_copy;
    struct request *request;

    if (dev->journal.header) {
        request = journal_take(dev, untrusted_slot);
        untrusted = journal_entry_of(dev, request)->request;
    } else {
        request = request_at(dev, ring->req_cons);
        memcpy(untrusted_copy, untrusted_slot, ring->layout->slot);
    }
    /* The compiler may not go back to the original for any later use of the copy. */
    __asm__ volatile("" ::: "memory");
    ring->req_cons++;
    request->status = request_parse(dev, untrusted, request);
    return request;
}

/* Ask for an event with the next request; false if one is there already. */
bool ring_arm(struct blk_dev *dev)
{
    struct ring *ring = &dev->ring;

    store_release32(index_at(ring, RING_REQ_EVENT), ring->req_cons + 1);
    full_barrier();
    return load_acquire32(index_at(ring, RING_REQ_PROD)) == ring->req_cons;
}

static void write_response(struct ring *ring, const struct request *request)
{
    uint8_t response[16] = {0}; /* padding included: nothing of ours leaks to the guest */

    memcpy(response, &request->id, 8);
    response[8] = request->operation;
    memcpy(response + 10, &request->status, 2);
    store_bytes(slot_at(ring, ring->rsp_prod), response, ring->layout->response);
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
    store_release32(index_at(&dev->ring, RING_RSP_PROD), dev->ring.rsp_prod);
}

static void answer(struct blk_dev *dev, struct request *request)
{
    write_response(&dev->ring, request);
    account(&dev->count, request);
    grants_release(dev, request);
    request->state = REQUEST_FREE;
    dev->ring.rsp_prod++;
}

/* Up to the first that has not ended. */
static void publish_in_order(struct blk_dev *dev)
{
    struct ring *ring = &dev->ring;
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

/*
 * Send an event if the guest asked for one with any response published since the last check.
 * Apart from ring_publish, so that a guest that polls sees answers early while one that sleeps is
 * woken once for a group.
 */
void ring_notify_if_asked(struct blk_dev *dev)
{
    struct ring *ring = &dev->ring;
    uint32_t untrusted_event;

    if (ring->rsp_prod == ring->notified)
        return;
    full_barrier();
    untrusted_event = load_acquire32(index_at(ring, RING_RSP_EVENT));
    if (ring->rsp_prod - untrusted_event < ring->rsp_prod - ring->notified)
        ring_notify(dev);
    ring->notified = ring->rsp_prod;
}

void ring_notify(struct blk_dev *dev)
{
    const struct hv_ops *hv = dev->config.hv;

    dev->count.notifies++;
    /* A guest that closed its port loses its events; that the ring is still served is harmless. */
    if (hv->notify(hv->evtchn, dev->ring.port) < 0)
        dev->count.notify_errors++;
}
