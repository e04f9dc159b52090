/* SPDX-License-Identifier: MIT */
/*
 * The backend's end of a shared ring of fixed slots (xen/include/public/io/ring.h): requests are
 * taken here, responses published.
 *
 * Indices run freely and wrap at 2^32; only differences mean something. The guest can write every
 * byte of the ring at any time: req_prod and the event indices are loaded once per use, and our
 * own indices are never read back after the ring was opened.
 *
 * Invariant: rsp_prod <= req_cons <= rsp_prod + slots (modulo 2^32).
 *
 * Knows nothing of what is in a slot.
 */
#ifndef XENBACKD_PLANE_RING_H
#define XENBACKD_PLANE_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/native/barrier.h"
#include "shared/native/ring_page.h"

struct plane_ring {
    uint8_t *shared;
    uint32_t slots; /* a power of two */
    uint32_t req_cons;
    uint32_t rsp_prod;
    uint32_t notified; /* rsp_prod when it was last checked whether the guest wants an event */
    uint32_t untrusted_req_prod; /* as last seen, for the report of a fault */
};

static inline volatile uint32_t *plane_ring_index(const struct plane_ring *ring, uint32_t offset)
{
    return (volatile uint32_t *)(void *)(ring->shared + offset);
}

/*
 * Take the ring up at its published response index, which in a ring that is answered in order is
 * the first request without an answer. Both indices are still the guest's word, and
 * plane_ring_available checks one against the other.
 */
static inline void plane_ring_open(struct plane_ring *ring, void *shared, uint32_t slots)
{
    ring->shared = shared;
    ring->slots = slots;
    ring->untrusted_req_prod = load_acquire32(plane_ring_index(ring, RING_REQ_PROD));
    ring->rsp_prod = load_acquire32(plane_ring_index(ring, RING_RSP_PROD));
    ring->req_cons = ring->notified = ring->rsp_prod;
}

/* Requests that may be taken, or -1: the producer claims what cannot be. */
static inline int32_t plane_ring_available(struct plane_ring *ring)
{
    uint32_t untrusted_prod = load_acquire32(plane_ring_index(ring, RING_REQ_PROD));

    ring->untrusted_req_prod = untrusted_prod;
    /*
     * Against rsp_prod, not req_cons: a slot is the guest's again only when its answer is
     * published. This also finds a producer that went backwards.
     */
    if (untrusted_prod - ring->rsp_prod > ring->slots ||
        untrusted_prod - ring->rsp_prod < ring->req_cons - ring->rsp_prod)
        return -1;
    return (int32_t)(untrusted_prod - ring->req_cons);
}

/* Ask for an event with the next request; false if one is there already. */
static inline bool plane_ring_arm(struct plane_ring *ring)
{
    store_release32(plane_ring_index(ring, RING_REQ_EVENT), ring->req_cons + 1);
    full_barrier();
    return load_acquire32(plane_ring_index(ring, RING_REQ_PROD)) == ring->req_cons;
}

/* Everything up to our rsp_prod is the guest's to read. */
static inline void plane_ring_publish(struct plane_ring *ring)
{
    store_release32(plane_ring_index(ring, RING_RSP_PROD), ring->rsp_prod);
}

/*
 * Whether the guest asked for an event with any response published since the last check. Apart from
 * plane_ring_publish, so that a guest that polls sees answers early while one that sleeps is woken
 * once for a group.
 */
static inline bool plane_ring_event_asked(struct plane_ring *ring)
{
    uint32_t untrusted_event, fresh = ring->rsp_prod - ring->notified;

    if (!fresh)
        return false;
    full_barrier();
    untrusted_event = load_acquire32(plane_ring_index(ring, RING_RSP_EVENT));
    ring->notified = ring->rsp_prod;
    return ring->rsp_prod - untrusted_event < fresh;
}

#endif
