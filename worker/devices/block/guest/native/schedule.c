/* SPDX-License-Identifier: MIT */
/*
 * Which block an I/O takes, and in verify mode what is known of it.
 *
 * Two I/Os that touch the same unit are never in flight together if one of them writes: what
 * the read should find would not be defined. The table says what was last completed; a unit with a
 * write in flight, failed or abandoned is unknown, and is not checked until written again.
 */
#include <stddef.h>

#include "load.h"

#define RANDOM_TRIES 32

static uint64_t next_random(struct load *load)
{
    /* xorshift64*: a few cycles, good enough to scatter I/O. */
    uint64_t x = load->random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    load->random = x;
    return x * 0x2545f4914f6cdd1du;
}

static uint64_t random_below(struct load *load, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)next_random(load) * bound) >> 64);
}

static uint64_t block_sector(const struct load *load, uint64_t block)
{
    return load->config->offset / BLKIF_SECTOR + block * load->sectors;
}

static uint64_t first_unit(const struct load *load, uint64_t sector)
{
    return sector * BLKIF_SECTOR / load->config->table->unit;
}

/* --- which block next ---------------------------------------------------------------------- */

static int is_free(const struct load *load, uint64_t sector, int write)
{
    const struct front_table *table = load->config->table;
    if (!table)
        return 1;
    const uint8_t *busy = table->busy + first_unit(load, sector);
    for (uint32_t i = 0; i < load->units; i++) {
        if (write ? busy[i] != 0 : busy[i] >= FRONT_BUSY_WRITE - 1)
            return 0;
    }
    return 1;
}

static int is_known(const struct load *load, uint64_t sector)
{
    const uint32_t *sequence = load->config->table->sequence + first_unit(load, sector);
    for (uint32_t i = 0; i < load->units; i++) {
        if (sequence[i])
            return 1;
    }
    return 0;
}

/* 1 and the block, 0 none at present, -1 none left. */
static int pick_readback(struct load *load, uint64_t *sector)
{
    for (; load->next_block < load->blocks; load->next_block++) {
        *sector = block_sector(load, load->next_block);
        if (is_known(load, *sector)) {
            load->next_block++;
            return 1;
        }
    }
    return -1;
}

int load_pick(struct load *load, uint64_t *sector, int *write)
{
    uint32_t rw = load->config->rw;
    if (load->readback) {
        *write = 0;
        return pick_readback(load, sector);
    }
    if (load->bytes_left < load->config->block_size)
        return -1;
    if (rw == FRONT_RANDRW)
        *write = random_below(load, 100) >= load->config->read_percent;
    else
        *write = rw == FRONT_WRITE || rw == FRONT_RANDWRITE;
    if (rw == FRONT_READ || rw == FRONT_WRITE) {
        *sector = block_sector(load, load->next_block);
        if (!is_free(load, *sector, *write))
            return 0;
        if (++load->next_block == load->blocks)
            load->next_block = 0;
        return 1;
    }
    for (int tries = 0; tries < RANDOM_TRIES; tries++) {
        *sector = block_sector(load, random_below(load, load->blocks));
        if (is_free(load, *sector, *write))
            return 1;
    }
    return 0;
}

/* --- what is known ------------------------------------------------------------------------- */

void load_mark(struct load *load, struct io *io)
{
    struct front_table *table = load->config->table;
    uint64_t unit = first_unit(load, io->sector);
    if (io->write) {
        io->sequence = table->next++;
        if (!table->next)
            table->next = 1;
    }
    for (uint32_t i = 0; i < load->units; i++) {
        if (io->write) {
            table->busy[unit + i] = FRONT_BUSY_WRITE;
            table->sequence[unit + i] = 0;
        } else {
            table->busy[unit + i]++;
        }
    }
}

void load_fill(struct load *load, const struct io *io, const struct front_shadow *shadow)
{
    const struct front_table *table = load->config->table;
    uint32_t per_page = HV_PAGE_SIZE / table->unit;
    uint32_t unit_sectors = table->unit / BLKIF_SECTOR;
    uint32_t units = shadow->sectors / unit_sectors;
    for (uint32_t i = 0; i < units; i++) {
        uint8_t *page = load->front->pages[shadow->page[i / per_page]].address;
        front_pattern(page + (size_t)(i % per_page) * table->unit, table->unit, table->session,
                      shadow->sector + (uint64_t)i * unit_sectors, io->sequence);
    }
}

void load_check(struct load *load, const struct front_shadow *shadow)
{
    const struct front_table *table = load->config->table;
    struct front_result *result = load->result;
    uint32_t per_page = HV_PAGE_SIZE / table->unit;
    uint32_t unit_sectors = table->unit / BLKIF_SECTOR;
    uint64_t unit = first_unit(load, shadow->sector);
    for (uint32_t i = 0; i < shadow->sectors / unit_sectors; i++) {
        uint32_t sequence = table->sequence[unit + i];
        struct front_mismatch found;
        if (!sequence) {
            result->unverified++;
            continue;
        }
        const uint8_t *page = load->front->pages[shadow->page[i / per_page]].address;
        result->verified++;
        if (front_pattern_check(page + (size_t)(i % per_page) * table->unit, table->unit,
                                table->session, shadow->sector + (uint64_t)i * unit_sectors,
                                sequence, &found)) {
            if (!result->mismatches++)
                result->mismatch = found;
        }
    }
}

void load_unmark(struct load *load, const struct io *io)
{
    struct front_table *table = load->config->table;
    uint64_t unit = first_unit(load, io->sector);
    for (uint32_t i = 0; i < load->units; i++) {
        if (io->write) {
            table->busy[unit + i] = 0;
            /* A failed write leaves the content unknown. */
            table->sequence[unit + i] = io->status ? 0 : io->sequence;
        } else {
            table->busy[unit + i]--;
        }
    }
}
