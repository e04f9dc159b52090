/* SPDX-License-Identifier: MIT */
/*
 * The promises about the ring. What the backend has taken and answered is seen in its own indices.
 * What it wrote is seen by comparing the ring with a copy, into which only the guest's writes and
 * the answers that were due go.
 */
#include "world.h"

static uint8_t *slot_of(const struct world *world, uint8_t *ring, uint32_t index)
{
    return ring + RING_HEADER + (index & (world->slots - 1)) * world->layout->slot;
}

/* What will have to be answered for each slot that may still be taken. */
static void read_slots(struct world *world)
{
    const struct plane_ring *ring = &world->dev->ring;

    for (uint32_t i = ring->req_cons; i != ring->rsp_prod + world->slots; i++) {
        struct oracle_request request = oracle_read(&world->config, world->layout32,
                                                    slot_of(world, world->ring, i));

        world->next[i & (world->slots - 1)] =
            (struct expected){request.id, request.operation, request.status};
    }
}

/* How well the answer fits to what is due: 0 not at all, 2 best. */
static int fits(const struct world *world, const struct expected *due, uint64_t id,
                uint8_t operation, int16_t status)
{
    if (due->id != id || due->operation != operation)
        return 0;
    if (due->status == status)
        return 2;
    if (due->status == BLKIF_RSP_OKAY)
        return status == BLKIF_RSP_ERROR || operation == BLKIF_OP_DISCARD;
    /* What was in hand at too many deaths is an error, whatever it was. */
    return status == BLKIF_RSP_ERROR && (world->poisoned || world->dev->count.poisoned);
}

/* Strike the answer off what is due; a guest may use one id for many. */
static void settle(struct world *world, uint64_t id, uint8_t operation, int16_t status)
{
    struct expected *best = NULL;
    int fit = 0;

    for (uint32_t i = 0; i < world->due_count; i++) {
        int this = fits(world, &world->due[i], id, operation, status);

        if (this > fit) {
            best = &world->due[i];
            fit = this;
        }
    }
    CHECK(best || world->anonymous, "id %llx, operation %u, status %d was not due",
          (unsigned long long)id, operation, status);
    if (best)
        *best = world->due[--world->due_count];
    else
        world->anonymous--;
}

static void read_answer(struct world *world, uint32_t index)
{
    const uint8_t *slot = slot_of(world, world->ring, index);
    uint8_t clean[16] = {0};
    uint64_t id;
    int16_t status;

    memcpy(&id, slot, 8);
    memcpy(&status, slot + 10, 2);
    CHECK(status <= BLKIF_RSP_OKAY && status >= BLKIF_RSP_EOPNOTSUPP, "status %d", status);
    memcpy(clean, slot, 9);
    memcpy(clean + 10, slot + 10, 2);
    CHECK(memcmp(clean, slot, world->layout->response) == 0, "bytes of ours in a response");
    memcpy(slot_of(world, world->shadow, index), slot, world->layout->response);
    settle(world, id, slot[8], status);
    if (id < WORLD_IDS)
        world->answer[id] = status;
}

/* Take ring and indices as they are for right. */
void check_begin(struct world *world)
{
    world->seen_rsp = world->dev->ring.rsp_prod;
    world->seen_cons = world->dev->ring.req_cons;
    world->due_count = 0;
    world->anonymous = world->seen_cons - world->seen_rsp;
    memcpy(world->shadow, world->ring, world->ring_bytes);
    read_slots(world);
}

void check_ring(struct world *world)
{
    const struct plane_ring *ring = &world->dev->ring;

    if (world->ignore)
        return;
    CHECK(ring->req_cons - ring->rsp_prod <= world->slots, "%u taken, %u answered",
          ring->req_cons, ring->rsp_prod);
    for (; world->seen_cons != ring->req_cons; world->seen_cons++) {
        CHECK(world->due_count < 2 * JOURNAL_SLOTS_MAX, "more taken than can have been");
        world->due[world->due_count++] = world->next[world->seen_cons & (world->slots - 1)];
    }
    for (; world->seen_rsp != ring->rsp_prod; world->seen_rsp++)
        read_answer(world, world->seen_rsp);
    /* Ours to write: req_event and rsp_prod. */
    memcpy(world->shadow + RING_REQ_EVENT, world->ring + RING_REQ_EVENT, 8);
    CHECK(memcmp(world->shadow, world->ring, world->ring_bytes) == 0,
          "the ring was written beside the responses");
    read_slots(world);
}

void check_nothing_due(struct world *world)
{
    CHECK(world->due_count + world->anonymous == 0, "%u requests have no answer",
          world->due_count + world->anonymous);
    CHECK(world->mappings == 0, "%u areas are still mapped", world->mappings);
}
