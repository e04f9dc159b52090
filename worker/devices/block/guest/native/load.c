/* SPDX-License-Identifier: MIT */
/*
 * The load generator: keeps a number of I/Os in flight and measures them.
 *
 * An I/O is one block of block_size bytes. It goes into the ring as the number of requests that
 * its size needs, and is complete when all are answered. At most one I/O is only partly in the
 * ring: the one for which slots or pages ran out.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "load.h"

#define REQUEST_SECTORS (BLKIF_MAX_SEGMENTS * BLKIF_SECTORS_PER_PAGE)
/* Nanoseconds a stopped load waits for what is in flight. */
#define STOP_NS 2000000000u

uint32_t front_bucket(uint64_t ns)
{
    /* 32 buckets per power of two: a value is right to within 3 %. */
    if (ns < 32)
        return (uint32_t)ns;
    uint32_t exponent = 63 - (uint32_t)__builtin_clzll(ns);
    return (exponent - 4) * 32 + (uint32_t)(ns >> (exponent - 5)) - 32;
}

/* --- starting ------------------------------------------------------------------------------ */

/* Put as much of the I/O into the ring as there is room for; 1 when all of it is. */
static int ask(struct load *load, struct io *io)
{
    struct front *front = load->front;
    while (io->asked < load->sectors) {
        uint32_t left = load->sectors - io->asked;
        uint32_t sectors = left < REQUEST_SECTORS ? left : REQUEST_SECTORS;
        uint32_t pages = (sectors + BLKIF_SECTORS_PER_PAGE - 1) / BLKIF_SECTORS_PER_PAGE;
        if (!front_room(front, pages))
            return 0;
        struct front_shadow *shadow = front_take(front, pages);
        shadow->tag = (uint64_t)(io - load->ios);
        shadow->sector = io->sector + io->asked;
        shadow->sectors = sectors;
        if (io->write && load->config->table)
            load_fill(load, io, shadow);
        front_put(front, shadow, io->write ? BLKIF_OP_WRITE : BLKIF_OP_READ, shadow->sector,
                  sectors);
        io->asked += sectors;
        io->pending++;
    }
    return 1;
}

static int paced(const struct load *load)
{
    return load->config->tick_ns && !load->readback;
}

/* Ticks that came and went while nothing could begin are not made up for. */
static void allow(struct load *load)
{
    if (!paced(load)) {
        load->allowed = UINT32_MAX;
    } else if (load->now >= load->next_tick) {
        uint64_t next = load->next_tick + load->config->tick_ns;
        load->next_tick = next > load->now ? next : load->now + load->config->tick_ns;
        load->allowed = load->config->depth;
    }
}

static int start_more(struct load *load)
{
    if (load->partial && ask(load, load->partial))
        load->partial = NULL;
    allow(load);
    while (!load->partial && load->free_count && load->allowed && !load->ending &&
           front_room(load->front, 1)) {
        uint64_t sector;
        int write;
        int found = load_pick(load, &sector, &write);
        if (found < 0)
            load->ending = 1;
        if (found <= 0)
            break;
        load->allowed--;
        struct io *io = &load->ios[load->free_ios[--load->free_count]];
        *io = (struct io){.sector = sector, .start = load->now, .write = (uint8_t)write};
        if (load->config->table)
            load_mark(load, io);
        if (!load->readback)
            load->bytes_left -= load->config->block_size;
        if (!ask(load, io))
            load->partial = io;
    }
    return front_push(load->front);
}

/* --- completing ---------------------------------------------------------------------------- */

static void complete(struct load *load, struct io *io)
{
    struct front_result *result = load->result;
    if (load->config->table)
        load_unmark(load, io);
    if (io->status) {
        if (!result->errors++) {
            result->first_error_status = io->status;
            result->first_error_sector = io->sector;
        }
    } else if (!load->readback) {
        load_record(load, io);
        uint32_t bucket = front_bucket(load->now - io->start);
        if (io->write) {
            result->writes++;
            result->write_bytes += load->config->block_size;
            result->write_latency[bucket]++;
        } else {
            result->reads++;
            result->read_bytes += load->config->block_size;
            result->read_latency[bucket]++;
        }
    }
    load->free_ios[load->free_count++] = (uint32_t)(io - load->ios);
}

static int reap(struct load *load)
{
    struct front_response response;
    int found;
    load->now = front_now();
    while ((found = front_next(load->front, &response)) > 0) {
        struct io *io = &load->ios[response.shadow->tag];
        if (response.status != BLKIF_RSP_OKAY) {
            io->status = response.status;
        } else if (!io->write && load->config->table) {
            load_check(load, response.shadow);
        }
        front_release(load->front, response.shadow);
        io->pending--;
        if (!io->pending && io->asked == load->sectors)
            complete(load, io);
    }
    load->progress = load->now;
    return found;
}

/* --- the loop ------------------------------------------------------------------------------ */

static int busy(const struct load *load)
{
    return load->free_count < load->config->depth;
}

static void check_time(struct load *load)
{
    uint64_t runtime = load->config->runtime_ns;
    if (!load->readback && runtime && load->now - load->began >= runtime)
        load->ending = 1;
}

/* How long to wait for answers: until the next tick if I/Os are to begin then. */
static uint64_t until_tick(const struct load *load, uint64_t wait)
{
    if (!paced(load) || load->ending || load->allowed || !load->free_count)
        return wait;
    uint64_t left = load->next_tick > load->now ? load->next_tick - load->now : 0;
    return left < wait || !busy(load) ? left : wait;
}

/* One phase: until nothing is left to start and everything is answered. */
static int run_phase(struct load *load)
{
    load->now = load->progress = front_now();
    for (;;) {
        if (__atomic_load_n(&load->front->stop, __ATOMIC_RELAXED)) {
            load->ending = 1;
            load->result->end = FRONT_END_STOPPED;
        }
        check_time(load);
        if (!busy(load))
            load->progress = load->now; /* no answer is due */
        int failed = start_more(load);
        if (failed)
            return failed;
        if (load->ending && !busy(load))
            return 0;
        int stopping = load->result->end == FRONT_END_STOPPED;
        uint64_t silent = load->now - load->progress;
        uint64_t limit = stopping && load->config->stall_ns > STOP_NS ? STOP_NS
                                                                      : load->config->stall_ns;
        uint64_t wait = limit > silent ? limit - silent : 0;
        int found = front_wait(load->front, load->config->poll_ns, until_tick(load, wait),
                               !stopping);
        if (found == 0 && front_now() - load->progress >= limit && (busy(load) || !paced(load)))
            return -ETIMEDOUT;
        int reaped = found > 0;
        if (reaped)
            found = reap(load);
        if (found < 0 && found != -EINTR)
            return found;
        if (load->record_error)
            return load->record_error;
        /* Without verification, hardly any time has passed since reap took the time. */
        if (load->config->table || found < 0 || !reaped)
            load->now = front_now();
    }
}

/* What is still in flight is answered after us or never: its content is unknown. */
static void abandon(struct load *load)
{
    for (uint32_t i = 0; i < load->config->depth; i++) {
        struct io *io = &load->ios[i];
        if (!io->pending && io != load->partial)
            continue;
        io->status = BLKIF_RSP_ERROR;
        load->result->in_flight++;
        if (load->config->table)
            load_unmark(load, io);
    }
}

static void conclude(struct load *load, int failed)
{
    struct front_result *result = load->result;
    if (!failed)
        return;
    abandon(load);
    if (failed == -ETIMEDOUT && result->end == FRONT_END_STOPPED)
        return;
    result->end = failed == -ETIMEDOUT ? FRONT_END_STUCK
                  : failed == -EPROTO  ? FRONT_END_PROTOCOL
                                       : FRONT_END_HOST;
    result->error = -failed;
}

static int prepare(struct load *load)
{
    const struct front_config *config = load->config;
    uint64_t whole = config->size / config->block_size;
    if (!config->block_size || config->block_size % BLKIF_SECTOR || !config->depth || !whole ||
        config->offset % BLKIF_SECTOR)
        return -EINVAL;
    if (config->table && (config->block_size % config->table->unit ||
                          config->offset % config->table->unit ||
                          (config->offset + config->size) / config->table->unit >
                              config->table->units))
        return -EINVAL;
    load->sectors = config->block_size / BLKIF_SECTOR;
    load->units = config->table ? config->block_size / config->table->unit : 0;
    load->blocks = whole;
    load->random = config->seed | 1;
    load->bytes_left = config->total_bytes ? config->total_bytes
                       : config->runtime_ns ? UINT64_MAX
                                            : whole * config->block_size;
    uint32_t enough = (load->sectors < REQUEST_SECTORS ? load->sectors : REQUEST_SECTORS);
    if (load->front->free_page_count < (enough + 7) / BLKIF_SECTORS_PER_PAGE)
        return -ENOBUFS;
    load->ios = calloc(config->depth, sizeof *load->ios);
    load->free_ios = calloc(config->depth, sizeof *load->free_ios);
    if (!load->ios || !load->free_ios)
        return -ENOMEM;
    for (uint32_t i = config->depth; i-- > 0;)
        load->free_ios[load->free_count++] = i;
    return 0;
}

static uint64_t thread_cpu(void)
{
    struct timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

int front_run(struct front *front, const struct front_config *config, struct front_result *result)
{
    struct load load = {.front = front, .config = config, .result = result};
    struct front_counters before = front->counters;
    uint64_t cpu = thread_cpu();
    int failed = prepare(&load);

    if (!failed) {
        front->run++;
        load.began = load.next_tick = front_now();
        failed = run_phase(&load);
        load_write_records(&load);
        result->elapsed_ns = front_now() - load.began;
        result->cpu_ns = thread_cpu() - cpu;
        result->notifies = front->counters.notifies - before.notifies;
        result->events = front->counters.events - before.events;
        if (!failed && config->table && config->readback && !result->end) {
            load.readback = 1;
            load.ending = 0;
            load.next_block = 0;
            failed = run_phase(&load);
        }
        conclude(&load, failed);
        failed = 0;
    }
    free(load.ios);
    free(load.free_ios);
    return failed;
}
