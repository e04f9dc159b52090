/* SPDX-License-Identifier: MIT */
/*
 * Workers that die and are succeeded, and journals that are not what a worker left.
 *
 * After an honest death, at any store, every request the guest has put gets one answer, from one
 * worker or another. A successor that finds a forged journal refuses, and has then touched neither
 * ring nor journal nor disk; or it takes the ring up and keeps all promises of world.h from there.
 *
 * Input: settings (world.c), then one byte per step and what the step takes.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <errno.h>

#include "targets.h"
#include "world.h"

#define STEPS_MAX 192
#define FILE_MAX (sizeof(struct journal_header) + 512 * sizeof(struct journal_entry))

static struct world world;

static uint64_t get64(off_t at)
{
    uint64_t value = 0;

    return pread(world.journal, &value, 8, at) == 8 ? value : 0;
}

static void put_bytes(off_t at, const void *data, size_t bytes)
{
    CHECK(pwrite(world.journal, data, bytes, at) == (ssize_t)bytes, "errno %d", errno);
}

/* Write what no worker of ours has written, mostly near what one could have. */
static void forge(uint8_t how)
{
    uint64_t taken = get64(offsetof(struct journal_header, taken)), value;
    off_t entry = (off_t)(sizeof(struct journal_header) +
                          take8(world.input) % world.slots * sizeof(struct journal_entry));

    world.forged = true;
    switch (how & 7) {
    case 0:
        value = take8(world.input);
        put_bytes(take16(world.input) % FILE_MAX, &value, 1);
        break;
    case 1:
    case 2:
        value = journal_word(take8(world.input) % 5, take8(world.input) % 6,
                             (int16_t)-(take8(world.input) % 4),
                             (uint32_t)taken + (uint32_t)(int8_t)take8(world.input));
        put_bytes(entry, &value, 8);
        break;
    case 3:
        value = taken + (uint64_t)(int8_t)take8(world.input);
        put_bytes(entry + 8, &value, 8);
        break;
    case 4:
        for (int i = 0; i < 16; i++) {
            value = take8(world.input);
            put_bytes(entry + 16 + i, &value, 1);
        }
        break;
    case 5:
        value = taken + (uint64_t)(int8_t)take8(world.input);
        put_bytes(how & 8 ? offsetof(struct journal_header, taken)
                          : offsetof(struct journal_header, answered),
                  &value, 8);
        break;
    case 6:
        value = how >> 4 & 3;
        put_bytes(offsetof(struct journal_header, publication), &value, 4);
        break;
    default:
        CHECK(ftruncate(world.journal, take16(world.input) % (FILE_MAX + 999)) == 0, "truncate");
    }
}

static size_t read_journal(uint8_t *into)
{
    ssize_t got = pread(world.journal, into, FILE_MAX, 0);

    return got < 0 ? 0 : (size_t)got;
}

/* The successor takes up what there is. False: it refused. */
static bool succeed(uint32_t points)
{
    static uint8_t before[FILE_MAX], after[FILE_MAX], disk[sizeof(world.disk)];
    static uint8_t ring[HV_PAGE_SIZE << BLKIF_MAX_RING_ORDER];
    size_t bytes = read_journal(before);
    int error;

    memcpy(disk, world.disk, sizeof(disk));
    memcpy(ring, world.ring, world.ring_bytes);
    blk_inject_arm(points);
    error = world_attach(&world, true);
    blk_inject_arm(0);
    if (error == BLK_KILLED) {
        world_kill(&world, points & 1);
        return succeed(0);
    }
    if (!error)
        return true;
    CHECK(memcmp(ring, world.ring, world.ring_bytes) == 0, "refused, and the ring was written");
    CHECK(memcmp(disk, world.disk, sizeof(disk)) == 0, "refused, and the disk was written");
    if (error == -EBADMSG)
        CHECK(read_journal(after) == bytes && memcmp(before, after, bytes) == 0,
              "damaged, and written to");
    return false;
}

static bool die(uint8_t how)
{
    uint32_t points = how >> 4 & 1 ? take8(world.input) : take16(world.input) % 600;
    uint8_t forgeries = how >> 5 & 3;

    if (world.attached) {
        blk_inject_arm(1 + points);
        world_run(&world);
    }
    world_kill(&world, how >> 7);
    for (; forgeries; forgeries--)
        forge(take8(world.input));
    return succeed(how & 16 ? take8(world.input) : 0);
}

/* False: there will be no more service. */
static bool step(uint8_t how)
{
    switch (how & 7) {
    case 0:
    case 1:
        world_put(&world, how >> 4 & 7, 1);
        break;
    case 2:
        world_put(&world, how >> 4 & 1, 1 + (how >> 5));
        world_push(&world);
        break;
    case 3:
        world_push(&world);
        world_run(&world);
        break;
    case 4:
        if (blk_inject_queued(world.dev))
            blk_inject_finish(world.dev, (how >> 3) % blk_inject_queued(world.dev));
        break;
    case 5:
        world_finish_jobs(&world);
        world_run(&world);
        break;
    case 6:
        world_deed(&world, take8(world.input), false);
        break;
    default:
        world_push(&world);
        return die(how);
    }
    return true;
}

void fuzz_journal(const uint8_t *data, size_t size)
{
    struct input input = {data, data + size};
    bool served = true;

    world_open(&world, &input);
    world.journaled = true;
    world.journal = memfd_create("journal", MFD_CLOEXEC);
    CHECK(world.journal >= 0, "memfd: errno %d", errno);
    world_new_ring(&world, take8(&input) & 1 ? 0xfffffff0u : 0);
    world_attach(&world, false);
    for (int i = 0; i < STEPS_MAX && served && input_left(&input); i++)
        served = step(take8(&input));
    world_end(&world);
}
