/* SPDX-License-Identifier: MIT */
/*
 * Whether data arrives where it belongs, however a batch is cut, merged, copied and retried: of
 * every request that was answered with success, each sector that no other one touches is compared.
 *
 * Input: settings (world.c), then per request: a byte, and with its top bits unset a sector.
 */
#include "targets.h"
#include "world.h"

#define REQUESTS_MAX 32
#define PAGE_SECTORS (WORLD_PAGES * BLKIF_SECTORS_PER_PAGE)

static struct world world;
static uint8_t old_disk[sizeof(world.disk)];
static uint8_t old_memory[PAGE_SECTORS * BLKIF_SECTOR];
/* Who touches a sector of the disk, of the guest's pages: requests, and which of them write. */
static uint8_t disk_users[WORLD_SECTORS], disk_writers[WORLD_SECTORS];
static uint8_t page_users[PAGE_SECTORS], page_writers[PAGE_SECTORS];

static struct oracle_request put[REQUESTS_MAX];

static void touch(const struct oracle_request *request)
{
    bool reads = request->operation == BLKIF_OP_READ;
    uint64_t sector = request->sector;

    for (uint32_t i = 0; i < request->segments; i++) {
        for (uint32_t s = request->segment[i].first; s <= request->segment[i].last; s++) {
            uint32_t page = request->segment[i].ref * 8 + s;

            disk_users[sector]++;
            disk_writers[sector++] += !reads;
            if (page < PAGE_SECTORS) {
                page_users[page]++;
                page_writers[page] += reads;
            }
        }
    }
}

static void compare(const struct oracle_request *request)
{
    uint64_t sector = request->sector;

    for (uint32_t i = 0; i < request->segments; i++) {
        for (uint32_t s = request->segment[i].first; s <= request->segment[i].last; s++) {
            uint32_t page = request->segment[i].ref * 8 + s;
            const uint8_t *before, *now;
            uint64_t at = sector++ * BLKIF_SECTOR;

            CHECK(page < PAGE_SECTORS, "success with a page that is not granted");
            if (request->operation == BLKIF_OP_READ) {
                before = old_disk + at;
                now = guest_page(0) + page * BLKIF_SECTOR;
                if (page_users[page] > 1 || disk_writers[sector - 1])
                    continue;
            } else {
                before = old_memory + page * BLKIF_SECTOR;
                now = world.disk + at;
                if (disk_users[sector - 1] > 1 || page_writers[page])
                    continue;
            }
            CHECK(memcmp(before, now, BLKIF_SECTOR) == 0, "sector %llu is not what it must be",
                  (unsigned long long)(sector - 1));
        }
    }
}

/* A request; `how` says whether it follows the last one on the disk. */
static void put_request(uint32_t number, uint8_t how, uint64_t *sector)
{
    struct input *input = world.input, tail;
    uint8_t bytes[2 + 2 * BLKIF_MAX_SEGMENTS], segments = 1 + (how >> 1) % 11;
    const uint8_t *slot;

    if (how & 0x40)
        *sector = take8(input);
    memcpy(bytes, sector, 2);
    for (uint32_t i = 0; i < segments; i++) {
        uint8_t at = take8(input);

        bytes[2 + 2 * i] = at;
        bytes[3 + 2 * i] = how & 0x20 ? take8(input) : 0;
    }
    tail = *input;
    *input = (struct input){bytes, bytes + sizeof(bytes)};
    slot = world.ring + RING_HEADER + (world.prod & (world.slots - 1)) * world.layout->slot;
    world_put(&world, how & 1, segments);
    *input = tail;
    put[number] = oracle_read(&world.config, world.layout32, slot);
    *sector = put[number].sector + put[number].count;
    if (put[number].status == BLKIF_RSP_OKAY)
        touch(&put[number]);
}

void fuzz_merge(const uint8_t *data, size_t size)
{
    struct input input = {data, data + size};
    uint64_t sector = 0;
    uint32_t count = 0;

    world_open(&world, &input);
    memcpy(old_disk, world.disk, sizeof(old_disk));
    memcpy(old_memory, guest_page(0), sizeof(old_memory));
    memset(disk_users, 0, sizeof(disk_users));
    memset(disk_writers, 0, sizeof(disk_writers));
    memset(page_users, 0, sizeof(page_users));
    memset(page_writers, 0, sizeof(page_writers));
    world_new_ring(&world, 0);
    world_attach(&world, false);
    while (count < REQUESTS_MAX && input_left(&input))
        put_request(count++, take8(&input), &sector);
    world_push(&world);
    world_run(&world);
    world_finish_jobs(&world);
    world_run(&world);
    for (uint32_t i = 0; i < count; i++) {
        CHECK(world.answer[i] != UNANSWERED, "request %u has no answer", i);
        if (world.answer[i] == BLKIF_RSP_OKAY)
            compare(&put[i]);
    }
    world_end(&world);
}
