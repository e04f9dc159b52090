/* SPDX-License-Identifier: MIT */
/*
 * Content that proves itself. Every unit (512 to 4096 bytes) on the disk says which session wrote
 * it, where it belongs and which write it is, and the rest of it is a pattern made of these. So a
 * unit read back that differs from what was last completed shows what happened to it: a lost write
 * (stale), a write or read gone to another place (misplaced), half a write (torn), or something
 * that was never written here (foreign).
 *
 * Every table draws a new session number: what an earlier one left behind is foreign and cannot
 * pass for a write of this one.
 */
#include <stdlib.h>
#include <string.h>

#include "worker/devices/block/native/blkif.h"
#include "front.h"

#define MAGIC 0x564552494659424bu
#define WORD 8u
#define HEADER_WORDS 4u

static uint64_t mix(uint64_t value)
{
    /* Finaliser of SplitMix64: every input bit reaches every output bit. */
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

static uint64_t key_of(uint64_t session, uint64_t sector, uint64_t sequence)
{
    return mix(session ^ mix(sector ^ mix(sequence)));
}

void front_pattern(uint8_t *block, uint32_t unit, uint64_t session, uint64_t sector,
                   uint64_t sequence)
{
    uint64_t *words = (uint64_t *)(void *)block;
    uint64_t key = key_of(session, sector, sequence);
    words[0] = MAGIC;
    words[1] = session;
    words[2] = sector;
    words[3] = sequence;
    for (uint32_t i = HEADER_WORDS; i < unit / WORD; i++)
        words[i] = key + i * 0x9e3779b97f4a7c15u;
}

static uint32_t classify(uint64_t session, uint64_t sector, uint64_t sequence,
                         const struct front_mismatch *found)
{
    if (found->found_magic != MAGIC || found->found_session != session)
        return FRONT_BAD_FOREIGN;
    if (found->found_sector != sector)
        return FRONT_BAD_MISPLACED;
    return found->found_sequence != sequence ? FRONT_BAD_STALE : FRONT_BAD_TORN;
}

int front_pattern_check(const uint8_t *block, uint32_t unit, uint64_t session, uint64_t sector,
                        uint64_t sequence, struct front_mismatch *out)
{
    const uint64_t *words = (const uint64_t *)(const void *)block;
    uint64_t key = key_of(session, sector, sequence);
    uint64_t expected[HEADER_WORDS] = {MAGIC, session, sector, sequence};
    uint64_t wrong = 0;

    for (uint32_t i = 0; i < HEADER_WORDS; i++)
        wrong |= words[i] ^ expected[i];
    for (uint32_t i = HEADER_WORDS; i < unit / WORD; i++)
        wrong |= words[i] ^ (key + i * 0x9e3779b97f4a7c15u);
    if (!wrong)
        return 0;
    memset(out, 0, sizeof *out);
    out->sector = sector;
    out->expected_sequence = sequence;
    out->found_magic = words[0];
    out->found_session = words[1];
    out->found_sector = words[2];
    out->found_sequence = words[3];
    for (uint32_t i = 0; i < unit / WORD; i++) {
        uint64_t want = i < HEADER_WORDS ? expected[i] : key + i * 0x9e3779b97f4a7c15u;
        if (words[i] != want) {
            out->bad_offset = i * WORD + (uint32_t)__builtin_ctzll(words[i] ^ want) / 8;
            break;
        }
    }
    out->kind = classify(session, sector, sequence, out);
    return 1;
}

struct front_table *front_table_new(uint64_t bytes, uint32_t unit, uint64_t session)
{
    struct front_table *table = calloc(1, sizeof *table);
    if (!table)
        return NULL;
    table->unit = unit;
    table->units = bytes / unit;
    table->session = session;
    table->next = 1;
    /* Memory that calloc has not touched is free: a large disk costs only what is written. */
    table->sequence = calloc(table->units + 1, sizeof *table->sequence);
    table->busy = calloc(table->units + 1, 1);
    if (!table->sequence || !table->busy) {
        front_table_free(table);
        return NULL;
    }
    return table;
}

void front_table_free(struct front_table *table)
{
    if (!table)
        return;
    free(table->sequence);
    free(table->busy);
    free(table);
}

void front_table_forget(struct front_table *table, uint64_t offset, uint64_t length)
{
    uint64_t first = offset / table->unit;
    uint64_t last = (offset + length + table->unit - 1) / table->unit;
    for (uint64_t i = first; i < last && i < table->units; i++)
        table->sequence[i] = 0;
}

uint64_t front_table_known(struct front_table *table)
{
    uint64_t known = 0;
    for (uint64_t i = 0; i < table->units; i++)
        known += table->sequence[i] != 0;
    return known;
}
