/* SPDX-License-Identifier: MIT */
/* One case from the opening of a device to its end, and what a guest can do in between. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "world.h"

static int event_fd = -1;

static const uint32_t LIMITS[] = {64, 0, 1, 5};

/* The device's settings: one byte of flags, one of sizes, then how calls end. */
static void configure(struct world *world)
{
    struct input *input = world->input;
    uint8_t flags = take8(input), sizes = take8(input);
    struct blk_config *config = &world->config;

    world->layout32 = flags & 1;
    world->layout = world->layout32 ? &BLKIF_32 : &BLKIF_64;
    world->persistent = flags & 2;
    world->order = flags & 4 ? 1 : 0;
    if (world->order && sizes >> 6 == 3)
        world->order = 4;
    config->read_only = flags >> 3 & 1;
    config->flush = !(flags & 16);
    config->discard = !(flags & 32);
    config->engine = flags & 64 ? BLK_ENGINE_SYNC : BLK_ENGINE_AUTO;
    config->direct_io = flags >> 7 & 1;
    config->sector_size = sizes & 1 ? 4096 : 512;
    config->sectors = WORLD_SECTORS - (sizes >> 1 & 3) * 8u;
    config->max_persistent = LIMITS[sizes >> 3 & 3];
    config->io_threads = 1;
    config->fd = -1;
    config->domid = 3;
    for (uint32_t i = 0; i < WORLD_VERDICTS; i++)
        world->verdict[i] = take8(input);
}

static void open_device(struct world *world)
{
    world->dev = blk_open(&world->config);
    CHECK(world->dev, "blk_open: errno %d", errno);
}

void world_open(struct world *world, struct input *input)
{
    memset(world, 0, sizeof(*world));
    world->input = input;
    configure(world);
    calls_fill(world);
    guest_reset();
    if (event_fd < 0)
        event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    world->event = event_fd;
    world->slots = blkif_ring_slots(world->layout, world->order);
    world->ring_bytes = HV_PAGE_SIZE << world->order;
    /* From the heap, so that a step beside it is found; aligned as a page's words are. */
    world->ring = calloc(1, world->ring_bytes);
    world->shadow = calloc(1, world->ring_bytes);
    CHECK(world->ring && world->shadow, "out of memory");
    for (uint32_t i = 0; i < WORLD_REFS; i++)
        world->grant[i] = (struct grant){(uint8_t)i, GRANT_WRITABLE};
    for (uint32_t i = 48; i < WORLD_REFS; i++)
        world->grant[i].kind = i < 56 ? GRANT_READ_ONLY : GRANT_NONE;
    world->ever_writable = (1ull << 48) - 1;
    for (uint32_t i = 0; i < WORLD_IDS; i++)
        world->answer[i] = UNANSWERED;
    for (uint32_t i = 0; i < WORLD_SECTORS; i++)
        memset(world->disk + i * BLKIF_SECTOR, (int)(i ^ 0x55), BLKIF_SECTOR);
    world->journal = -1;
    open_device(world);
}

/* 0, or the error that the guest or a forged journal earned. */
int world_attach(struct world *world, bool resume)
{
    struct blk_ring_config config = {
        .ring = world->ring,
        .connection = {.order = world->order,
                       .layout32 = world->layout32,
                       .remote_port = 5,
                       .refs = {8}},
        .port = WORLD_PORT,
        .persistent = world->persistent,
        .resume = resume,
        .journal_fd = world->journal,
        .journal = world->journaled,
    };
    bool clean = !world->tampered && !world->forged;
    /* Where the ring alone says what was answered, the guest says it. */
    bool anew = !resume || world->forged || (world->tampered && !world->journaled);
    int error;

    world->ignore = true;
    error = blk_inject_attach(world->dev, &config);
    if (error == BLK_KILLED)
        return error;
    CHECK(!error || !clean, "attach: %d, and nothing was wrong", error);
    CHECK(!error || error == -EPROTO || error == -EBADMSG || error == -ENODATA, "attach: %d",
          error);
    world->attached = !error;
    world->stopped = error != 0;
    if (error)
        return error;
    world->ignore = false;
    if (anew)
        check_begin(world);
    check_ring(world);
    return 0;
}

/* A frontend that begins: indices at `start`, everything else 0. */
void world_new_ring(struct world *world, uint32_t start)
{
    uint32_t indices[4] = {start, start + 1, start, start + 1};

    memset(world->ring, 0, world->ring_bytes);
    memcpy(world->ring, indices, sizeof(indices));
    memcpy(world->shadow, world->ring, world->ring_bytes);
    world->prod = start;
    world->tampered = false;
}

static uint8_t *slot_of(const struct world *world, uint8_t *ring, uint32_t index)
{
    return ring + RING_HEADER + (index & (world->slots - 1)) * world->layout->slot;
}

static void write_ring(struct world *world, uint32_t offset, const void *data, size_t bytes)
{
    memcpy(world->ring + offset, data, bytes);
    memcpy(world->shadow + offset, data, bytes);
}

static void put(struct world *world, const uint8_t *slot)
{
    uint8_t *at = slot_of(world, world->ring, world->prod++);

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

/* Serve once; BLK_KILLED if a point was armed and reached. */
int world_run(struct world *world)
{
    int reason;

    if (!world->attached || world->stopped)
        return BLK_FAULT;
    check_ring(world); /* and see what the guest has put since */
    reason = blk_inject_run(world->dev, 0);
    if (reason == BLK_KILLED) {
        world->ignore = true; /* it may have been writing a response */
        return reason;
    }
    check_ring(world);
    CHECK(reason != BLK_FAULT || world->tampered, "fault %d without a guest's doing",
          world->dev->fault);
    world->stopped = reason == BLK_FAULT;
    return reason;
}

/* The worker is dead, wherever it was; a new one that has seen nothing takes its place. */
void world_kill(struct world *world, bool crashed)
{
    uint32_t one = 1;

    blk_inject_arm(0);
    if (world->attached)
        check_ring(world);
    world->ignore = true;
    world->poisoned = world->poisoned || world->dev->count.poisoned;
    blk_inject_abandon(world->dev);
    CHECK(world->mappings == 0, "%u areas outlived their process", world->mappings);
    if (crashed)
        CHECK(pwrite(world->journal, &one, 4, 12) == 4, "no journal");
    world->attached = false;
    open_device(world);
}

/* All that threads have in hand ends, the youngest first. */
void world_finish_jobs(struct world *world)
{
    while (blk_inject_queued(world->dev))
        blk_inject_finish(world->dev, blk_inject_queued(world->dev) - 1);
}

/* Everything taken is answered, everything of the guest's given back. */
void world_detach(struct world *world)
{
    blk_inject_arm(0);
    if (world->attached) {
        /* What is held back for a suspect comes one by one. */
        for (uint32_t i = 0; i < 2 * JOURNAL_SLOTS_MAX + 8; i++) {
            world_finish_jobs(world);
            if (blk_detach(world->dev, 0) == 0)
                break;
        }
        check_ring(world);
        check_nothing_due(world);
        world->attached = false;
    }
}

/* Detach, and free everything. */
void world_end(struct world *world)
{
    world_detach(world);
    CHECK(world->mappings == 0, "%u areas are still mapped", world->mappings);
    guest_check_protected(world);
    blk_close(world->dev);
    free(world->ring);
    free(world->shadow);
    if (world->journal >= 0)
        close(world->journal);
    while (world->pending_count)
        world->hv.pending(world);
    world->hv.pending(world);
}
