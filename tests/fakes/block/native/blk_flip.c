/* SPDX-License-Identifier: MIT */
/*
 * The guest of the double-fetch test (XSA-155): one thread puts requests and checks the answers,
 * another one writes over the requests all the time, good values and bad ones in turn. A backend
 * that looks at a field twice sooner or later sees two different ones.
 *
 * What is flipped overlaps with where answers are written, so the test checks only what no flip can
 * reach: whose request it is (bytes 2 and 3 of its id), the operation, the padding behind it, the
 * status and, in the 64-bit layout, that the upper half of the id is one that was written.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "blk_flip_internal.h"

#define OWNER(slot) ((uint32_t)(slot) << 16)
#define FLIPS 64 /* before they are counted */
#define HIGH 0xa5a50000u /* of ids; the lowest two bits are flipped */

static const uint8_t OPERATIONS[] = {BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_READ,
                                     BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_DISCARD,
                                     BLKIF_OP_INDIRECT, 255, BLKIF_OP_WRITE};
static const uint8_t COUNTS[] = {1, 11, 2, 12, 0, 255, 3, 128};
/* first_sect and last_sect, as one value. */
static const uint16_t SPANS[] = {0x0700, 0x0007, 0x0000, 0x0800, 0x0303, 0xff00, 0x0404, 0xffff};
static const uint32_t REFS[] = {FLIP_FIRST_REF, 0, FLIP_FIRST_REF + 3, 9999,
                                FLIP_FIRST_REF + FLIP_PAGES - 1, UINT32_MAX, FLIP_FIRST_REF + 7,
                                FLIP_FIRST_REF + 1};

static volatile uint32_t *index_at(struct flip *flip, uint32_t offset)
{
    return (volatile uint32_t *)(void *)(flip->ring + offset);
}

static uint8_t *slot_at(struct flip *flip, uint32_t index)
{
    return flip->ring + RING_HEADER + (index % flip->config.slots) * flip->config.slot;
}

static uint64_t sector_for(const struct flip *flip, uint32_t choice)
{
    uint64_t end = flip->config.sectors;
    const uint64_t sectors[] = {0, end, 8, UINT64_MAX, end - 8, 1ull << 55, end - 1, 1ull << 63};

    return sectors[choice];
}

/* Aligned to 4 only, in the 32-bit layout. */
static void store64(uint8_t *at, uint64_t value)
{
    volatile uint32_t *words = (volatile uint32_t *)(void *)at;

    if (((uintptr_t)at & 7) == 0) {
        *(volatile uint64_t *)(void *)at = value;
        return;
    }
    words[0] = (uint32_t)value;
    words[1] = (uint32_t)(value >> 32);
}

static void flip_request(struct flip *flip, uint64_t random)
{
    const struct flip_config *config = &flip->config;
    uint8_t *slot = slot_at(flip, (uint32_t)(random >> 8));
    uint8_t *segment = slot + config->segments + 8 * ((random >> 16 & 0xff) % 11);
    uint32_t choice = random >> 32 & 7;

    switch (random & 7) {
    case 0:
        *(volatile uint8_t *)slot = OPERATIONS[choice];
        break;
    case 1:
    case 2:
        *(volatile uint8_t *)(slot + 1) = COUNTS[choice];
        break;
    case 3:
        store64(slot + config->sector, sector_for(flip, choice));
        break;
    case 4:
    case 5:
        *(volatile uint16_t *)(void *)(segment + 4) = SPANS[choice];
        break;
    case 6:
        *(volatile uint32_t *)(void *)segment = REFS[choice];
        break;
    default:
        if (config->slot == 112)
            *(volatile uint32_t *)(void *)(slot + config->id + 4) = HIGH | (choice & 3);
        *index_at(flip, RING_REQ_EVENT + 4 * (choice % 3)) = (uint32_t)(random >> 40);
    }
}

/* Values that can be, and values that cannot. */
static void flip_producer(struct flip *flip, uint64_t random)
{
    const uint32_t ahead[] = {0, 1, 5, flip->config.slots, flip->config.slots + 1, 1u << 31,
                              UINT32_MAX, 3};
    uint32_t base = (random >> 48) % 4 ? flip->prod : *index_at(flip, RING_RSP_PROD);

    *index_at(flip, random & 1 ? RING_REQ_PROD : RING_RSP_PROD) = base + ahead[random >> 32 & 7];
}

static void *flip_main(void *argument)
{
    struct flip *flip = argument;
    uint64_t state = 0x9e3779b97f4a7c15ull;

    while (!__atomic_load_n(&flip->stop, __ATOMIC_ACQUIRE)) {
        for (int i = 0; i < FLIPS; i++) {
            if (flip->producer)
                flip_producer(flip, flip_random(&state));
            else
                flip_request(flip, flip_random(&state));
        }
        __atomic_fetch_add(&flip->flips, FLIPS, __ATOMIC_RELAXED);
    }
    return NULL;
}

int flip_start(struct flip *flip, int producer)
{
    int error;

    flip->producer = producer != 0;
    flip->stop = 0;
    error = pthread_create(&flip->thread, NULL, flip_main, flip);
    flip->running = error == 0;
    return -error;
}

void flip_stop(struct flip *flip)
{
    if (!flip->running)
        return;
    __atomic_store_n(&flip->stop, 1, __ATOMIC_RELEASE);
    pthread_join(flip->thread, NULL);
    flip->running = false;
}

void flip_fill(struct flip *flip)
{
    const struct flip_config *config = &flip->config;

    for (uint32_t i = 0; i < config->slots; i++) {
        uint64_t random = flip_random(&flip->random);
        uint8_t request[112] = {random & 1 ? BLKIF_OP_WRITE : BLKIF_OP_READ,
                                (uint8_t)(1 + (random >> 8) % 11)};
        uint32_t id[2] = {OWNER(i), HIGH};
        uint64_t sector = 8 * ((random >> 16) % (config->sectors / 8 - 11));

        memcpy(request + config->id, id, sizeof(id));
        memcpy(request + config->sector, &sector, sizeof(sector));
        for (uint32_t s = 0; s < BLKIF_MAX_SEGMENTS; s++) {
            uint32_t ref = FLIP_FIRST_REF + (uint32_t)(random >> 24 & 0xf) + s;

            memcpy(request + config->segments + 8 * s, &ref, sizeof(ref));
        }
        memcpy(slot_at(flip, flip->prod + i), request, config->slot);
    }
    flip->prod += config->slots;
    __atomic_store_n(index_at(flip, RING_REQ_PROD), flip->prod, __ATOMIC_RELEASE);
}

static bool one_of(uint8_t value, const uint8_t *values, size_t count)
{
    return memchr(values, value, count) != NULL;
}

static bool offered(uint8_t operation)
{
    static const uint8_t known[] = {BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_FLUSH_DISKCACHE,
                                    BLKIF_OP_DISCARD};

    return one_of(operation, known, sizeof(known));
}

/* The answers of one round: each request has one, and it says what was asked. */
static void check_answers(struct flip *flip)
{
    bool found[512] = {false};

    for (uint32_t i = 0; i < flip->config.slots; i++) {
        const volatile uint8_t *answer = slot_at(flip, flip->prod + i);
        uint32_t owner = answer[2] | (uint32_t)answer[3] << 8;
        uint32_t high = *(const volatile uint32_t *)(const volatile void *)(answer + 4);
        uint8_t operation = answer[8];
        int16_t status = *(const volatile int16_t *)(const volatile void *)(answer + 10);

        if (owner >= flip->config.slots || found[owner])
            flip_violation(flip, "answer: to no request or to one twice", owner);
        else
            found[owner] = true;
        if ((high & ~3u) != HIGH)
            flip_violation(flip, "answer: an id that nobody wrote", high);
        if (!one_of(operation, OPERATIONS, sizeof(OPERATIONS)))
            flip_violation(flip, "answer: an operation that nobody wrote", operation);
        if (answer[9] != 0)
            flip_violation(flip, "answer: padding", answer[9]);
        if (status > BLKIF_RSP_OKAY || status < BLKIF_RSP_EOPNOTSUPP ||
            offered(operation) == (status == BLKIF_RSP_EOPNOTSUPP))
            flip_violation(flip, "answer: a status of another operation", (uint16_t)status);
    }
}

static uint64_t seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec;
}

/* Until all requests that were put have their answer. */
static bool serve(struct flip *flip, const struct flip_engine *engine)
{
    uint64_t end = seconds() + FLIP_STUCK_SECONDS;
    struct blk_status status;

    for (;;) {
        int reason = engine->run(engine->dev, NULL, 0, 0);

        engine->status(engine->dev, &status);
        if (reason == BLK_FAULT)
            flip_violation(flip, "run: a fault without a reason", (uint64_t)status.fault);
        if (status.req_cons - status.rsp_prod > flip->config.slots)
            flip_violation(flip, "run: more in flight than there are slots", status.req_cons);
        if (status.rsp_prod == flip->prod)
            return true;
        if (seconds() > end)
            flip_violation(flip, "run: requests without an answer", status.rsp_prod);
        if (__atomic_load_n(&flip->violations, __ATOMIC_RELAXED))
            return false;
        sched_yield(); /* an I/O thread may have the rest */
    }
}

/*
 * Let the other thread have its turn: on a busy machine the two of them may never run at once, and
 * what it wrote before the ring was filled is gone.
 */
static void wait_for_flips(struct flip *flip)
{
    uint64_t before = __atomic_load_n(&flip->flips, __ATOMIC_RELAXED);

    while (__atomic_load_n(&flip->flips, __ATOMIC_RELAXED) < before + 2 * FLIPS)
        sched_yield();
}

int flip_rounds(struct flip *flip, const struct flip_engine *engine, uint64_t requests)
{
    while (flip->count.requests < requests ||
           __atomic_load_n(&flip->flips, __ATOMIC_RELAXED) < requests) {
        flip_fill(flip);
        if (flip->count.requests / flip->config.slots % 64 == 0)
            wait_for_flips(flip);
        if (!serve(flip, engine))
            return -1;
        check_answers(flip);
        if (__atomic_load_n(&flip->violations, __ATOMIC_RELAXED))
            return -1;
        flip->count.requests += flip->config.slots;
    }
    return 0;
}

struct flip *flip_open(const struct flip_config *config)
{
    struct flip *flip = calloc(1, sizeof(*flip));

    if (!flip)
        return NULL;
    flip->config = *config;
    flip->random = 0x2545f4914f6cdd1dull;
    flip->ring = flip_guarded(HV_PAGE_SIZE);
    if (flip_host_open(flip) < 0 || !flip->ring ||
        mprotect(flip->ring, HV_PAGE_SIZE, PROT_READ | PROT_WRITE) < 0) {
        flip_close(flip);
        return NULL;
    }
    return flip;
}

void flip_close(struct flip *flip)
{
    flip_stop(flip);
    flip_host_close(flip);
    if (flip->ring)
        munmap(flip->ring - HV_PAGE_SIZE, 3 * HV_PAGE_SIZE);
    free(flip);
}

void *flip_memory(struct flip *flip)
{
    return flip->ring;
}

const struct hv_ops *flip_ops(struct flip *flip)
{
    return &flip->ops;
}

const struct blk_disk *flip_disk(struct flip *flip)
{
    return &flip->disk;
}

void flip_report(struct flip *flip, struct flip_report *out)
{
    *out = flip->count;
    out->flips = __atomic_load_n(&flip->flips, __ATOMIC_RELAXED);
    out->violations = __atomic_load_n(&flip->violations, __ATOMIC_RELAXED);
    out->reads = __atomic_load_n(&flip->reads, __ATOMIC_RELAXED);
    out->writes = __atomic_load_n(&flip->writes, __ATOMIC_RELAXED);
    out->flushes = __atomic_load_n(&flip->flushes, __ATOMIC_RELAXED);
    out->discards = __atomic_load_n(&flip->discards, __ATOMIC_RELAXED);
}
