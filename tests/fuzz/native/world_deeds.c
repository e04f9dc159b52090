/* SPDX-License-Identifier: MIT */
/* What a guest can do at any time, well-meant or not. */
#include <unistd.h>

#include "world.h"

static uint8_t *slot_of(const struct world *world, uint32_t index)
{
    return world->ring + RING_HEADER + (index & (world->slots - 1)) * world->layout->slot;
}

static void write_ring(struct world *world, uint32_t offset, const void *data, size_t bytes)
{
    memcpy(world->ring + offset, data, bytes);
    memcpy(world->shadow + offset, data, bytes);
}

static void put(struct world *world, const uint8_t *slot)
{
    uint8_t *at = slot_of(world, world->prod++);

    write_ring(world, (uint32_t)(at - world->ring), slot, world->layout->slot);
}

static bool has_room(const struct world *world)
{
    return world->prod - world->dev->ring.rsp_prod < world->slots;
}

/* A request as a driver makes it, with parameters that may be a little wrong. */
void world_put(struct world *world, uint8_t operation, uint8_t segments)
{
    uint8_t slot[112];
    uint64_t id = world->next_id, sector = take16(world->input) & 0x1ff, count;

    if (!has_room(world))
        return;
    world->next_id++;
    memset(slot, 0xee, sizeof(slot));
    slot[0] = operation;
    slot[1] = segments;
    memcpy(slot + world->layout->id, &id, 8);
    memcpy(slot + world->layout->sector, &sector, 8);
    for (uint32_t i = 0; i < segments && i < BLKIF_MAX_SEGMENTS; i++) {
        uint8_t *segment = slot + world->layout->segments + 8 * i;
        uint32_t ref = take8(world->input) % (WORLD_REFS + 1);
        uint8_t span = take8(world->input);

        memcpy(segment, &ref, 4);
        segment[4] = span & 7;
        segment[5] = 7 - (span >> 4 & 7);
    }
    if (operation == BLKIF_OP_DISCARD) {
        count = take8(world->input);
        memcpy(slot + world->layout->segments, &count, 8);
    }
    put(world, slot);
}

/* Any bytes for a request. */
void world_put_raw(struct world *world)
{
    uint8_t slot[112];

    for (size_t i = 0; i < sizeof(slot); i++)
        slot[i] = take8(world->input);
    if (has_room(world))
        put(world, slot);
}

void world_push(struct world *world)
{
    write_ring(world, RING_REQ_PROD, &world->prod, 4);
}

/* Any value in any index, mostly near the ones that count. */
static void write_index(struct world *world, bool called)
{
    uint8_t which = take8(world->input), how = take8(world->input);
    uint32_t base = how & 1 ? world->dev->ring.rsp_prod : world->prod;
    uint32_t value = how & 2 ? take32(world->input) : base + (uint32_t)(int8_t)take8(world->input);
    uint32_t ahead = value - world->dev->ring.rsp_prod;

    if ((which & 3) == 0 && called && ahead > world->slots && ahead <= 2 * world->slots)
        value = world->dev->ring.rsp_prod + world->slots; /* or slots of answers become requests */
    write_ring(world, (which & 3) * 4u, &value, 4);
    world->tampered = world->tampered || !(which & 1); /* the event indices are not looked at */
}

static void poke(struct world *world)
{
    uint32_t offset = 16 + take16(world->input) % (world->ring_bytes - 16);
    uint8_t value = take8(world->input);

    write_ring(world, offset, &value, 1);
}

/* Grants change for what is not mapped; what is mapped stays. */
static void change_grant(struct world *world)
{
    struct grant *grant = &world->grant[take8(world->input) % WORLD_REFS];
    uint8_t how = take8(world->input);

    grant->kind = how & 3;
    grant->page = how >> 2 & (WORLD_PAGES - 1);
    if (grant->kind == GRANT_WRITABLE || grant->kind == GRANT_COPY_ONLY)
        world->ever_writable |= 1ull << grant->page;
}

static void send_event(struct world *world)
{
    uint64_t one = 1;
    uint8_t how = take8(world->input);

    if (world->pending_count < 4)
        world->pending[world->pending_count++] = how & 1 ? how : WORLD_PORT;
    CHECK(write(world->event, &one, sizeof(one)) == sizeof(one), "eventfd");
}

/* One thing that a guest can do at any time; `deed` says what, `called` that the backend works. */
void world_deed(struct world *world, uint8_t deed, bool called)
{
    switch (deed & 7) {
    case 0:
        write_index(world, called);
        break;
    case 1:
    case 2:
        poke(world);
        break;
    case 3:
        change_grant(world);
        break;
    case 4:
        send_event(world);
        break;
    default:
        world_put(world, deed >> 4 & 7, deed >> 3 & 1 ? 1 : 3);
        world_push(world);
    }
}
