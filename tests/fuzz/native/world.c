/* SPDX-License-Identifier: MIT */
/* One case from the opening of a device to its end: workers come, serve, die and are succeeded. */
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
    hypervisor_fill(world);
    disk_fill(world);
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

/* Whether req_prod claims no more requests than there are slots, and none less than were taken. */
static bool is_believable(const struct world *world)
{
    const struct plane_ring *ring = &world->dev->ring;
    uint32_t claimed;

    memcpy(&claimed, world->ring + RING_REQ_PROD, 4);
    claimed -= ring->rsp_prod;
    return claimed <= world->slots && claimed >= ring->req_cons - ring->rsp_prod;
}

/* Serve once; BLK_KILLED if a point was armed and reached. */
int world_run(struct world *world)
{
    bool believable;
    int reason;

    if (!world->attached || world->stopped)
        return BLK_FAULT;
    check_ring(world); /* and see what the guest has put since */
    believable = is_believable(world);
    reason = blk_inject_run(world->dev, 0);
    if (reason == BLK_KILLED) {
        world->ignore = true; /* it may have been writing a response */
        return reason;
    }
    check_ring(world);
    CHECK(believable || reason == BLK_FAULT, "served, with a req_prod that makes no sense");
    CHECK(reason != BLK_FAULT || world->tampered, "fault %d without a guest's doing",
          world->dev->loop.fault);
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
